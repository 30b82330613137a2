"""The tuner of our NNI experiments: every value once, also when an experiment is stopped and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nni.algorithms.hpo.gridsearch_tuner import GridSearchTuner

from search_spaces.files import write_text_whole


class GridSearch(GridSearchTuner):
    """NNI's grid search, which remembers what it has given out.

    NNI tells a tuner that is resumed of the trials that had ended, not of those that the resume starts again.
    Its own grid search then gives these out a second time, and the end of the grid not at all.
    """

    def generate_parameters(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The next parameters.

        Raises:
            NoMoreTrialError: there are none.
        """
        parameters = super().generate_parameters(*args, **kwargs)
        if (file := self._file()) is not None:
            write_text_whole(file, json.dumps(sorted(self.history)))
        return parameters

    def load_checkpoint(self) -> None:
        """Remember; called when an experiment is resumed."""
        file = self._file()
        if file is not None and file.is_file():
            self.history |= set(json.loads(file.read_text(encoding="utf-8")))

    def _file(self) -> Path | None:
        folder = self.get_checkpoint_path()
        return None if folder is None else Path(folder, "grid.json")
