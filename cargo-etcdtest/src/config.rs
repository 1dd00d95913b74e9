//! Settings: the one place where flags, variables and files become what the program uses.
