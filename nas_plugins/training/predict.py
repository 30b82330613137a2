"""Predict classes, labels, values or masks of new images with a retrained network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from nas_plugins.data.image_files import form_of
from nas_plugins.data.module import ImageData
from nas_plugins.data.new_images import NewImages, find_images, plain_errors
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, check_output_file
from nas_plugins.report.text_table import text_table
from nas_plugins.runs import directory as runs
from nas_plugins.tasks import Targets, significant
from nas_plugins.terminal import printable
from nas_plugins.training.retrain import load_retraining
from nas_plugins.training.trainer import make_trainer, quiet, readable_errors
from search_spaces.files import write_text_whole, write_whole


@quiet()
def predict(run: PathLike, images: Iterable[PathLike]) -> pd.DataFrame:
    """Predict the outputs for image files, prepared as ``evaluate`` prepares the test images.

    Args:
        run: Run directory of a finished retraining, whose data set is still available.
        images: Image files, and folders that are searched for them.

    Returns:
        A row per file, whose path is the index, and a column per output: the probability of a class or of a label, a
        value, or the share of the pixels that have a class.

    Raises:
        InputError: The directory is not a finished retraining, or an image cannot be used.
    """
    targets, files, outputs = _predicted(Path(run), find_images(images))
    if targets.task.name == "regression":
        values = targets.predicted(outputs)
    elif targets.task.dense:
        values = torch.stack([outputs.flatten(1) == number for number in range(targets.count)]).double().mean(2).T
    else:  # in 64 bits, so that different logits have different probabilities
        logits = outputs.double()
        values = logits.sigmoid() if targets.task.name == "multilabel" else logits.softmax(1)
    return pd.DataFrame(values.numpy(), pd.Index(files, name="image"), list(targets.names))


@quiet()
def predict_masks(run: PathLike, images: Iterable[PathLike], output: PathLike) -> int:
    """Predict the masks of image files, and write them as grey PNG files of class numbers.

    A mask has the size of its image. If images are cropped, it has the size of the cropped image.

    Args:
        run: Run directory of a finished retraining for segmentation, whose data set is still available.
        images: Image files, and folders that are searched for them.
        output: Folder for the masks, which are named after the images.

    Returns:
        The number of masks.

    Raises:
        InputError: The directory is not such a run, an image cannot be used, or two images have the same name.
    """
    run, files = Path(run), find_images(images)
    settings, _ = runs.read_config(run)
    if not settings.task.dense:
        raise InputError(f"{run}: its task is {settings.task.name}, which has no masks")
    named: dict[str, str] = {}
    for file in files:
        name = f"{Path(file).stem}.png"
        if name in named:
            raise InputError(f"--output: {named[name]} and {file} would both have the mask {name}")
        named[name] = file
    _, _, masks = _predicted(run, files)
    resized = settings.values["data"]["image_size"] and not settings.values["data"]["resized_crop"]
    Path(output).mkdir(parents=True, exist_ok=True)
    for (name, file), mask in zip(named.items(), masks.numpy(), strict=True):
        picture = Image.fromarray(mask.astype(np.uint8 if mask.max() < 256 else np.uint16))
        if resized:
            form = form_of(file)
            picture = picture.resize((form.width, form.height), Image.Resampling.NEAREST)
        _save(picture, Path(output, name))
    return len(files)


def _save(picture: Image.Image, path: Path) -> None:
    write_whole(path, lambda file: picture.save(file, format="PNG"))


def _predicted(run: Path, files: list[str]) -> tuple[Targets, list[str], Tensor]:
    """Return the targets of a run, the files, and the outputs of its network for them."""
    training = load_retraining(run, "predict")
    data = training.data
    if training.config.user or not isinstance(data, ImageData):
        name = next(iter(training.config.user.values())).name
        raise InputError(
            f"{run}: predict takes runs with the data and the tasks of this project, and this one is of {name}"
        )
    loader = DataLoader(NewImages(files, data), data.batch_size, num_workers=data.workers)
    with readable_errors(run / runs.CHECKPOINT, f"nas-plugins predict {run}"), plain_errors():
        outputs = make_trainer(training.config, run, []).predict(training.module, loader)
    found = torch.cat([torch.as_tensor(batch).cpu() for batch in outputs or []])
    if not found.isfinite().all() or (data.targets.task.dense and bool((found < 0).any())):
        raise InputError(
            f"{run / runs.WEIGHTS}: the outputs are not finite, for the weights are lost; retrain with a lower "
            "training.learning_rate"
        )
    return data.targets, files, found


def save_predictions(predictions: pd.DataFrame, path: PathLike, task: str = "classification") -> None:
    """Write predictions as a CSV table.

    Columns are the image, the most probable class or the labels with a probability of at least 0.5, and the outputs.

    Args:
        predictions: What :func:`predict` returns.
        path: File to write.
        task: Task of the network.
    """
    table = predictions.add_prefix({"regression": "", "segmentation": "share_"}.get(task, "probability_"))
    table = table if task == "regression" else table.round(6)
    if task == "classification":
        table.insert(0, "class", predictions.idxmax(axis=1))
    elif task == "multilabel":
        table.insert(0, "labels", [";".join(row.index[row >= 0.5]) for _, row in predictions.iterrows()])
    # On Linux, names of files may not be valid text.
    table.index = table.index.map(lambda image: image.encode("utf-8", "replace").decode("utf-8"))
    write_text_whole(path, table.to_csv())


def check_predictions(path: PathLike, masks: bool = False) -> None:
    """Raise an InputError if predictions cannot be saved under a path.

    Args:
        path: File for a table, or folder for masks.
        masks: Whether there may be masks.
    """
    path = Path(path)
    if masks and path.suffix.lower() != ".csv":
        runs.check_output(path)
        return
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise InputError(f"--output: {path} should be a file that ends in .csv")
    check_output_file(path)


def predictions_text(predictions: pd.DataFrame, top: int = 3, task: str = "classification") -> str:
    """Return the values, or the highest outputs, for each image as aligned text.

    Args:
        predictions: What :func:`predict` returns.
        top: Number of classes or labels to show, at least 1; all if there are fewer.
        task: Task of the network.
    """
    values = predictions.to_numpy()
    ranked = np.argsort(-values, axis=1, kind="stable")[:, :top]
    columns = {"image": [printable(str(image)) for image in predictions.index]}
    if task == "regression":
        written = {printable(str(name)): [significant(value, 5) for value in predictions[name]] for name in predictions}
        return text_table({**columns, **written})
    for rank in range(ranked.shape[1]):
        chosen = ranked[:, rank]
        shares = values[np.arange(len(chosen)), chosen]
        names = predictions.columns[chosen]
        columns[str(rank + 1)] = [f"{name} {share:7.2%}" for name, share in zip(names, shares, strict=True)]
    return text_table(columns)
