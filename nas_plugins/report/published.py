"""Published results to compare runs with: Tables I to V of Fine-Tuning DARTS.

The file published_results.csv holds accuracies and standard deviations in percent and parameters in millions.
"""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

from nas_plugins.errors import InputError

PAPER = "Tanveer, Khan and Kyung, Fine-Tuning DARTS for Image Classification (2020)"
TABLES = {"cifar10": "I", "cifar100": "II", "fashion_mnist": "III", "compcars": "IV", "miotcd": "V"}
"""Name of a table -> its number in the paper."""


def check_table(name: str) -> None:
    """Raise an InputError if there is no table of that name."""
    if name not in TABLES:
        raise InputError(f"--compare: {name!r} should be one of {', '.join(TABLES)}")


def read_published(name: str) -> pd.DataFrame:
    """Return the rows of a table of the paper in their order.

    Args:
        name: A key of :data:`TABLES`.

    Returns:
        Columns network (with the paper's reference number in brackets), dataset, test_acc and
        test_acc_std (fractions), parameters, found_by and gpu_days. Unpublished values are empty.

    Raises:
        InputError: There is no such table.
    """
    check_table(name)
    with files("nas_plugins.report").joinpath("published_results.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    table = table[table["table"] == name].reset_index(drop=True)
    return pd.DataFrame(
        {
            "network": table["network"],
            "dataset": table["dataset"],
            "test_acc": table["accuracy"] / 100,
            "test_acc_std": table["deviation"] / 100,
            "parameters": table["parameters"] * 1e6,
            "found_by": table["found_by"],
            "gpu_days": table["gpu_days"],
        }
    )


def source(name: str) -> str:
    """Return the citation of a table."""
    return f"Table {TABLES[name]} of {PAPER}; [n] are its references"
