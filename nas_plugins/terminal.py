"""Text that comes from files, printed so that it cannot send commands to the terminal."""

from __future__ import annotations


def printable(line: str) -> str:
    """Return a line with its control characters replaced."""
    return "".join(character if character.isprintable() else "?" for character in line)


def show(text: str) -> None:
    """Print lines with their control characters replaced."""
    print(*map(printable, text.split("\n")), sep="\n")
