"""Checkpoints and results of a run: written atomically, read as data and never as code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line, read_object
from nas_plugins.runs.directory import GENOTYPE, WEIGHTS
from search_spaces.files import write_whole
from search_spaces.genotype import Genotype

BEGIN_AGAIN = "delete it, and a resume begins at the first epoch"
"""Advice for a checkpoint that cannot be used."""


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are written atomically, and read as data, never as code.

    Args:
        settings: Settings that define what is trained, by key. A checkpoint with other settings is refused, even one
            whose tensors would fit.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.settings = dict(settings or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint together with the settings."""
        save_tensors({**checkpoint, "settings": self.settings} if self.settings else checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            InputError: The file is damaged, or it has other settings.
        """
        try:
            checkpoint = load_tensors(path, map_location)
        except InputError as error:
            raise InputError(f"{error}; {BEGIN_AGAIN}") from None
        saved = checkpoint.get("settings", {})
        for key, here in self.settings.items():
            if key in saved and saved[key] != here:  # settings that only one version has are ignored
                raise InputError(
                    f"{path}: not the checkpoint of this run: {key} is {saved[key]!r:.80} there, and {here!r:.80} "
                    f"here; {BEGIN_AGAIN}"
                )
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Do nothing: a run has a single checkpoint, which the next one replaces.

        Lightning would remove whatever path a checkpoint names as the best so far, for example that of the original
        of a copied run.
        """


class LastCheckpoint(ModelCheckpoint):
    """Checkpoint after the last complete epoch; stateless, so that it holds no path of this machine."""

    def state_dict(self) -> dict[str, Any]:
        """Return no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the state."""


def save_tensors(values: dict[str, Any], path: PathLike) -> None:
    """Write a file of tensors atomically.

    Raises:
        OSError: The file cannot be written.
    """
    content = io.BytesIO()  # when PyTorch writes a file itself, its own error can hide that the disk is full
    torch.save(values, content)
    write_whole(path, lambda file: file.write(content.getbuffer()))


def load_tensors(path: PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a file of tensors without executing code.

    Raises:
        InputError: The file is missing or damaged, or holds something else.
    """
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except Exception as error:  # the kind depends on the damage; PyTorch's text explains how to execute the file
        raise InputError(f"{path}: damaged, or not written by nas-plugins ({type(error).__name__})") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not the state of a network")
    return loaded


def load_weights(network: nn.Module, file: Path, weights: dict[str, Any], advice: str = "") -> None:
    """Load the weights of a run into its network.

    Args:
        network: The network, or a part of it.
        file: The file that the weights are from, for the message.
        weights: The weights by name.
        advice: Text at the end of the message.

    Raises:
        InputError: The weights are not those of this network.
    """
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{file}: not the weights of this run's network: {reason}{advice}") from None


def read_result(file: Path) -> Any:
    """Read a file that a run writes at its end.

    Returns:
        A genotype, the weights by name, or the values of a JSON file.

    Raises:
        InputError: The file is damaged.
    """
    try:
        if file.name == GENOTYPE:
            return Genotype.load(file)
        return load_tensors(file) if file.name == WEIGHTS else read_object(file)
    except ValueError as error:
        where = "" if str(error).startswith(str(file)) else f"{file}: "
        raise InputError(f"{where}{one_line(error)}; {rewrite_advice(file.parent)}") from None


def rewrite_advice(run: Path) -> str:
    """Return advice for a damaged result of a run."""
    return f"delete it, and nas-plugins resume {run} writes it anew"
