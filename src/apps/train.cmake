asplash_program(train LINK asplash_train)
