"""Grid search tuner for NNI experiments that tries every value once, even if the experiment is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nni.algorithms.hpo.gridsearch_tuner import GridSearchTuner

from search_spaces.files import write_text_whole


class GridSearch(GridSearchTuner):
    """NNI's grid search with a record of the parameters that it has generated.

    On a resume, NNI imports the results of finished trials, but not of those that it starts again. Its own grid search
    would generate the parameters of the latter a second time, and never reach the end of the grid.
    """

    def generate_parameters(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the next parameters.

        Raises:
            NoMoreTrialError: The grid is exhausted.
        """
        parameters = super().generate_parameters(*args, **kwargs)
        if (file := self._file()) is not None:
            write_text_whole(file, json.dumps(sorted(self.history)))
        return parameters

    def load_checkpoint(self) -> None:
        """Read the record when an experiment is resumed."""
        file = self._file()
        if file is not None and file.is_file():
            self.history |= set(json.loads(file.read_text(encoding="utf-8")))

    def _file(self) -> Path | None:
        folder = self.get_checkpoint_path()
        return None if folder is None else Path(folder, "grid.json")
