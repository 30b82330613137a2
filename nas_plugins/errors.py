"""What ends a command with a line of text instead of a traceback."""


class InputError(ValueError):
    """What a person gave cannot be used: the message names it, its value, and what would be right."""


class Terminated(KeyboardInterrupt):
    """SIGTERM ends a command as an interrupt does: Lightning would let it end as if it had finished."""
