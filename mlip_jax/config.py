"""YAML configs: read, override, validate strictly, write."""


class UserError(ValueError):
    """A mistake of the user's: the message says what was got, what was expected and what to do.

    The command line shows it without a traceback.
    """
