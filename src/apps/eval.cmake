asplash_program(eval LINK asplash_eval)
