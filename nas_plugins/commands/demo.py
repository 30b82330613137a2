"""The demo: the commands from a search to a report, on handwritten digits that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas_plugins.config.reader import read_retrain, read_search
from nas_plugins.runs.directory import GENOTYPE, check_output


def demo_commands(output: Path, configs: Path, overrides: Sequence[str] = ()) -> list[list[str]]:
    """Return the arguments of each command, after a check of all that the demo is given.

    Args:
        output: Folder to make, for the two runs and the report.
        configs: Folder with digits.yaml and digits_retrain.yaml.
        overrides: ``--key value`` pairs for the search and for the retraining.

    Raises:
        InputError: The folder exists already, or one of the configs has no such key or value.
    """
    check_output(output)
    config, again = configs / "digits.yaml", configs / "digits_retrain.yaml"
    read_search(config, overrides)
    read_retrain(again, overrides)
    search, retrain = output / "search", output / "retrain"
    commands: list[list[str | Path]] = [
        ["search", "--config", config, "--output", search, *overrides],
        ["retrain", "--genotype", search / GENOTYPE, "--config", again, "--output", retrain, *overrides],
        ["evaluate", retrain],
        ["report", search, retrain, "--output", output / "report"],
    ]
    return [list(map(str, command)) for command in commands]
