asplash_program(data LINK asplash_text)
