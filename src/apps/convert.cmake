asplash_program(convert LINK asplash_convert)
