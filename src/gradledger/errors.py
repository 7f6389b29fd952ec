"""The error that a user's mistake ends in."""


class UserError(ValueError):
    """Something the user gave cannot be used. The message says the fact, the values, and what to do.

    The command line prints it as one line and exits with status 2; from Python it is a ``ValueError``.
    """
