"""Demo: the commands from a search to a report, on the handwritten digits that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas_plugins.config.reader import read_retrain, read_search
from nas_plugins.runs.directory import CONFIG, GENOTYPE, check_output


def demo_commands(output: Path, configs: Path, overrides: Sequence[str] = ()) -> list[list[str]]:
    """Check the arguments of the demo, and return those of each of its commands.

    An interrupted demo continues where it stopped if there are no overrides.

    Args:
        output: Folder for the two runs and the report.
        configs: Folder with digits.yaml and digits_retrain.yaml.
        overrides: ``--key value`` pairs for the search and for the retraining.

    Raises:
        InputError: The folder exists already, or one of the configs has no such key or value.
    """
    search, retrain = output / "search", output / "retrain"
    goes_on = (search / CONFIG).exists() and not overrides
    if not goes_on:
        check_output(output)
    config, again = configs / "digits.yaml", configs / "digits_retrain.yaml"
    read_search(config, overrides)
    read_retrain(again, overrides)
    commands: list[list[str | Path]] = [
        ["search", "--config", config, "--output", search, *overrides],
        ["retrain", "--genotype", search / GENOTYPE, "--config", again, "--output", retrain, *overrides],
        ["evaluate", retrain],
        ["report", search, retrain, "--output", output / "report"],
    ]
    if goes_on:
        for number, run in enumerate(run for run in (search, retrain) if (run / CONFIG).exists()):
            commands[number] = ["resume", run]
    return [list(map(str, command)) for command in commands]
