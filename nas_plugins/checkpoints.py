"""Checkpoints and weights: written whole or not at all, read as data and never as code."""

from __future__ import annotations

import os
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from nas_plugins.errors import InputError
from search_spaces.files import write_whole

_KEYS = ("pytorch-lightning_version", "epoch", "state_dict", "optimizer_states", "loops", "callbacks")


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and read as data, never as code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_whole(path, lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        checkpoint = load_tensors(path, map_location)
        missing = [key for key in _KEYS if key not in checkpoint]
        if missing:
            raise InputError(f"{path}: not a checkpoint of nas-plugins: it has no {missing[0]}")
        return checkpoint


def load_tensors(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a file of tensors without running what it holds.

    Raises:
        InputError: the file is truncated, or not one of ours.
    """
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except Exception as error:  # torch.load raises many kinds, by the way in which a file is broken
        reason = str(error).strip().splitlines() or [repr(error)]
        raise InputError(f"{path}: damaged, or not written by nas-plugins: {reason[0]}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not the state of a network")
    if not all(isinstance(key, str) for key in loaded):
        raise InputError(f"{path}: holds values without names, not the state of a network")
    return loaded
