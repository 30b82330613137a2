"""Predict the classes of new images with a retrained network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from nas_plugins.data.module import ImageData
from nas_plugins.data.new_images import NewImages, find_images, plain_errors
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, check_output_file
from nas_plugins.report.text_table import text_table
from nas_plugins.runs import directory as runs
from nas_plugins.terminal import printable
from nas_plugins.training.retrain import load_retraining
from nas_plugins.training.trainer import make_trainer, quiet, readable_errors
from search_spaces.files import write_text_whole


@quiet()
def predict(run: PathLike, images: Iterable[PathLike]) -> pd.DataFrame:
    """Predict the classes of image files, prepared as ``evaluate`` prepares the test images.

    Args:
        run: Run directory of a finished retraining, whose data set is still there.
        images: Image files, and folders that are searched for them.

    Returns:
        A row of probabilities per file, whose path is the index, and a column per class.

    Raises:
        InputError: The directory is not a finished retraining, or an image cannot be used.
    """
    run, files = Path(run), find_images(images)
    training = load_retraining(run, "predict")
    data = training.data
    if training.config.user or not isinstance(data, ImageData):
        name = next(iter(training.config.user.values())).name
        raise InputError(f"{run}: predict takes runs of this project's image classification, and this one is of {name}")
    loader = DataLoader(NewImages(files, data), data.batch_size, num_workers=data.workers)
    with readable_errors(run / runs.CHECKPOINT, f"nas-plugins predict {run}"), plain_errors():
        outputs = make_trainer(training.config, run, []).predict(training.module, loader)
    logits = torch.cat([torch.as_tensor(batch).cpu() for batch in outputs or []])
    probabilities = logits.double().softmax(1)  # in 64 bits, in which different logits have different probabilities
    if not probabilities.isfinite().all():
        raise InputError(
            f"{run / runs.WEIGHTS}: the outputs are not finite, for the weights are lost; retrain with a lower "
            "training.learning_rate"
        )
    return pd.DataFrame(probabilities.numpy(), pd.Index(files, name="image"), data.classes)


def save_predictions(predictions: pd.DataFrame, path: PathLike) -> None:
    """Write predictions as a CSV table: image, most probable class, and the probability of each class.

    Args:
        predictions: What :func:`predict` returns.
        path: File to write.
    """
    table = predictions.add_prefix("probability_").round(6)
    table.insert(0, "class", predictions.idxmax(axis=1))
    # Linux takes names of files that are no text.
    table.index = table.index.map(lambda image: image.encode("utf-8", "replace").decode("utf-8"))
    write_text_whole(path, table.to_csv())


def check_csv(path: PathLike) -> None:
    """Raise an InputError if predictions cannot be saved under a path."""
    path = Path(path)
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise InputError(f"--output: {path} should be a file that ends in .csv")
    check_output_file(path)


def predictions_text(predictions: pd.DataFrame, top: int = 3) -> str:
    """Return the most probable classes of each image as aligned text.

    Args:
        predictions: What :func:`predict` returns.
        top: Number of classes to show, at least 1; all if there are fewer.
    """
    values = predictions.to_numpy()
    ranked = np.argsort(-values, axis=1, kind="stable")[:, :top]
    columns = {"image": [printable(str(image)) for image in predictions.index]}
    for rank in range(ranked.shape[1]):
        chosen = ranked[:, rank]
        shares = values[np.arange(len(chosen)), chosen]
        names = predictions.columns[chosen]
        columns[str(rank + 1)] = [f"{name} {share:7.2%}" for name, share in zip(names, shares, strict=True)]
    return text_table(columns)
