"""Exceptions that the CLI reports as a one-line message."""


class InputError(ValueError):
    """Unusable input; the message names the key, its value and what is accepted."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like an interrupt; Lightning alone would end the run as if it had finished."""
