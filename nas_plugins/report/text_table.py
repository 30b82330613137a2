"""Aligned text tables for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from prettytable import HRuleStyle, PrettyTable, VRuleStyle

LEFT_ALIGNED = ("run", "method", "dataset", "retrained on", "image")
"""Headings of the text columns; the other columns hold numbers and are aligned right."""


def text_table(
    columns: Mapping[str, Sequence[str]], width: int = 120, left_aligned: Collection[str] = LEFT_ALIGNED
) -> str:
    """Return columns as an aligned table, or an empty string if there are no columns.

    Args:
        columns: Heading -> texts of the column from top to bottom; all columns have the same length.
        width: Maximum length of a line, for which long names are wrapped. Exceeded only if the numbers do not fit.
        left_aligned: Headings of the columns that are aligned left.
    """
    if not columns:
        return ""
    table = PrettyTable(hrules=HRuleStyle.HEADER, vrules=VRuleStyle.NONE, horizontal_char="─", junction_char="─")
    table.left_padding_width, table.right_padding_width = 0, 1
    for heading, texts in columns.items():
        table.add_column(heading, texts, align="l" if heading in left_aligned else "r")
    for heading in ("method", "retrained on", "run"):
        excess = len(table.get_string().splitlines()[0]) - width
        if heading in columns and excess > 0:
            table.max_width[heading] = max(10, max(map(len, columns[heading])) - excess)
    return "\n".join(line[1:].rstrip() for line in table.get_string().splitlines())  # without the frame's spaces
