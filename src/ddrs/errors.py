"""The one error that users see: an input that cannot be used, said in one line."""


class DdrsError(ValueError):
    """An input that cannot be used. The message is one line: what, where, and what is allowed."""
