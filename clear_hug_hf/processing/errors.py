"""The one exception that every room raises for input a user can mend."""


class InputError(ValueError):
    """
    A recording, a label, a folder or an option that cannot be used as it was given.

    The message is one sentence that says what was wrong and what to do. The command line prints it on stderr and exits
    with status 2; Python callers catch it as a `ValueError`.
    """
