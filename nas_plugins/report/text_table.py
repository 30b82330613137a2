"""Aligned text tables for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

LEFT_ALIGNED = ("run", "method", "dataset", "retrained on")
"""Headings of the columns of words; the other columns hold numbers and are aligned right."""
MIN_WIDTHS = {"method": 14, "retrained on": 12, "run": 12}
"""Heading -> minimum width of a column whose texts may be wrapped; the columns are narrowed in this order."""


def text_table(columns: Mapping[str, Sequence[str]], width: int = 120) -> str:
    """Return columns as an aligned table, or an empty string if there are no columns.

    Args:
        columns: Heading -> texts of the column from top to bottom; all columns have the same length.
        width: Maximum length of a line. Exceeded only if the minimum widths of all columns do not fit.
    """
    if not columns:
        return ""
    widths = {heading: max(map(len, [heading, *texts])) for heading, texts in columns.items()}
    narrowest = sum(min(size, MIN_WIDTHS.get(heading, size)) for heading, size in widths.items())
    gap = "  " if narrowest + 2 * (len(widths) - 1) <= width else " "
    excess = sum(widths.values()) + len(gap) * (len(widths) - 1) - width
    for heading, minimum in MIN_WIDTHS.items():
        if heading in widths:
            cut = max(0, min(excess, widths[heading] - minimum))
            widths[heading] -= cut
            excess -= cut

    def line(texts: Sequence[str]) -> str:
        return gap.join(
            text.ljust(size) if heading in LEFT_ALIGNED else text.rjust(size)
            for (heading, size), text in zip(widths.items(), texts, strict=True)
        ).rstrip()

    lines = [line(list(columns)), gap.join("─" * size for size in widths.values())]
    for row in zip(*columns.values(), strict=True):
        wrapped = [_wrap(heading, text, widths[heading]) for heading, text in zip(columns, row, strict=True)]
        lines += [line(parts) for parts in zip_longest(*wrapped, fillvalue="")]
    return "\n".join(lines)


def _wrap(heading: str, text: str, width: int) -> list[str]:
    # All settings of a method are shown. A long run name may be cut: the report shows it in full.
    return textwrap.wrap(text, width, max_lines=3 if heading == "run" else None, placeholder="…")
