"""Published results to compare runs with: Tables I to V of Fine-Tuning DARTS.

The file published_results.csv holds accuracies and standard deviations in percent and parameters in millions.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nas_plugins.errors import InputError

PAPER = "Tanveer, Khan and Kyung, Fine-Tuning DARTS for Image Classification (2020)"
TABLES = {"cifar10": "I", "cifar100": "II", "fashion_mnist": "III", "compcars": "IV", "miotcd": "V"}
"""Name of a table -> its number in the paper."""


def read_published(name: str) -> pd.DataFrame:
    """Return the rows of a table of the paper in their order.

    Args:
        name: A key of :data:`TABLES`.

    Returns:
        Columns dataset, network (with the paper's reference number in brackets), test_acc and
        test_acc_std (fractions), parameters, found_by and gpu_days. Unpublished values are empty.

    Raises:
        InputError: There is no such table.
    """
    if name not in TABLES:
        raise InputError(f"--compare: {name!r} should be one of {', '.join(TABLES)}")
    table = pd.read_csv(Path(__file__).with_name("published_results.csv"))
    table = table[table["table"] == name].drop(columns="table").reset_index(drop=True)
    table[["test_acc", "test_acc_std"]] /= 100
    table["parameters"] *= 1e6
    return table


def source(name: str) -> str:
    """Return the citation of a table."""
    return f"Table {TABLES[name]} of {PAPER}; [n] are its references"
