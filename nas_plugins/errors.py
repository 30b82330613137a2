"""The one error that the host shows as a line of text instead of a traceback."""


class InputError(ValueError):
    """What a person gave cannot be used: the message names it, its value, and what would be right."""
