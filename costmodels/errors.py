"""The error a user can cause: bad input, said in one line."""


class InputError(ValueError):
    """Bad input from outside: a trace row, a configuration value, an incomplete run directory.

    The message is one line for a person: what is wrong, where, which value, what is allowed. The
    console command prints it and ends with exit code 2; nothing has been written by then.
    """
