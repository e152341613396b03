asplash_program(generate LINK asplash_eval)
