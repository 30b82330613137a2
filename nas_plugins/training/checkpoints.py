"""Checkpoints and weights: written whole or not at all, read as data and never as code."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from nas_plugins.errors import InputError
from search_spaces.files import write_whole

BEGIN_AGAIN = "delete it, and a resume begins at the first epoch"
"""What to do about a checkpoint that cannot be used."""
_KEYS = ("pytorch-lightning_version", "epoch", "state_dict", "optimizer_states", "loops", "callbacks")


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and read as data, never as code.

    Args:
        settings: key -> value of what is trained: a checkpoint of something else is refused, also one that would fit.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.settings = dict(settings or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_tensors({**checkpoint, "settings": self.settings} if self.settings else checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        try:
            checkpoint = load_tensors(path, map_location)
        except InputError as error:
            raise InputError(f"{error}; {BEGIN_AGAIN}") from None
        missing = [key for key in _KEYS if key not in checkpoint]
        if missing:
            raise InputError(f"{path}: not a checkpoint of nas-plugins: it has no {missing[0]}; {BEGIN_AGAIN}")
        self._check_settings(path, checkpoint.get("settings"))
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Nothing: a run has one checkpoint, which the next one replaces.

        Lightning would remove, with all that is in it, whatever folder a checkpoint names as the best so far.
        """

    def _check_settings(self, path: Any, saved: Any) -> None:
        if not isinstance(saved, dict):  # of an earlier version
            return
        for key, here in self.settings.items():
            if key in saved and saved[key] != here:
                raise InputError(
                    f"{path}: not the checkpoint of this run: {key} is {saved[key]!r:.80} there, and {here!r:.80} "
                    f"here; {BEGIN_AGAIN}"
                )


class LastCheckpoint(ModelCheckpoint):
    """The checkpoint after the last complete epoch. It notes nothing of itself, and believes no such note."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def save_tensors(values: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file of tensors, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()  # PyTorch that writes the file itself can hide the error of a full disk behind its own
    torch.save(values, content)
    write_whole(path, lambda file: file.write(content.getbuffer()))


def load_tensors(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a file of tensors without running what it holds.

    Raises:
        InputError: the file is truncated, or not one of ours.
    """
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError:  # whose text tells how to load it all the same
        raise InputError(f"{path}: damaged, or not written by nas-plugins: it holds more than tensors") from None
    except Exception as error:  # torch.load raises many kinds, by the way in which a file is broken
        reason = str(error).strip().splitlines() or [repr(error)]
        raise InputError(f"{path}: damaged, or not written by nas-plugins: {reason[0]}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not the state of a network")
    if not all(isinstance(key, str) for key in loaded):
        raise InputError(f"{path}: holds values without names, not the state of a network")
    return loaded
