"""Image folders for the tasks other than classification, made of the handwritten digits that scikit-learn ships.

Run ``python examples/tasks/make_data.py FOLDER``. It makes FOLDER/multilabel (three digits side by side, labelled with
the digits present), FOLDER/regression (one digit in any position, with its amount of ink and its position as values)
and FOLDER/segmentation (digits and boxes on noise, with their masks). No digit of a training image is in a test image.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

COUNTS = {"train": 1000, "test": 300}
"""Number of images of each part."""


def main() -> None:
    """Make the three folders."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder to make")
    folder = parser.parse_args().folder
    for make in (make_multilabel, make_regression, make_segmentation):
        make(folder / make.__name__.removeprefix("make_"))


def digits_of(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits of a part as images (N, 8, 8) from 0 to 1, and their labels."""
    bunch = load_digits()
    first = {"train": slice(0, 1400), "test": slice(1400, None)}[part]
    return bunch.images[first] / 16, bunch.target[first]


def parts() -> Iterator[tuple[str, np.random.Generator, np.ndarray, np.ndarray]]:
    """Yield each part with its random generator and its digits."""
    for seed, part in enumerate(COUNTS):
        yield part, np.random.default_rng(seed), *digits_of(part)


def make_multilabel(folder: Path) -> None:
    """Make images of up to three digits side by side, and a table of the digits present."""
    rows = []
    for part, random, images, targets in parts():
        for number in range(COUNTS[part]):
            chosen = random.integers(len(images), size=random.integers(1, 4))
            picture = np.zeros((24, 24))
            for place, digit in zip(random.permutation(3), chosen, strict=False):
                top = random.integers(17)
                picture[top : top + 8, 8 * place : 8 * place + 8] = images[digit]
            name = save(picture, folder, f"{part}/{number:04}.png")
            rows.append([name, *(int(label in targets[chosen]) for label in range(10))])
    write_table(folder, ["image", *(f"has_{label}" for label in range(10))], rows)


def make_regression(folder: Path) -> None:
    """Make images of a digit in any position, and a table of its amount of ink and its position in pixels."""
    rows = []
    for part, random, images, _ in parts():
        for number in range(COUNTS[part]):
            digit = images[random.integers(len(images))]
            left, top = random.integers(17, size=2)
            picture = random.uniform(0, 0.2, (24, 24))
            picture[top : top + 8, left : left + 8] += 0.8 * digit
            name = save(picture, folder, f"{part}/{number:04}.png")
            rows.append([name, f"{digit.sum():.2f}", left + 4, top + 4])
    write_table(folder, ["image", "ink", "x", "y"], rows)


def make_segmentation(folder: Path) -> None:
    """Make images of digits and boxes on noise, and masks: 0 background, 1 digit, 2 box, 255 the border of ink."""
    for part, random, images, _ in parts():
        for number in range(COUNTS[part]):
            picture, mask = random.uniform(0, 0.4, (24, 24)), np.zeros((24, 24), np.uint8)
            for label in random.integers(1, 3, size=random.integers(1, 4)):
                shape = images[random.integers(len(images))] if label == 1 else box(random)
                top, left = random.integers(17, size=2)
                place = slice(top, top + 8), slice(left, left + 8)
                picture[place] = np.maximum(picture[place], shape)
                ink = shape > 0.5
                mask[place][ink] = label
                mask[place][(shape > 0.2) & ~ink & (mask[place] == 0)] = 255  # neither ink nor background
            save(picture, folder, f"{part}/images/{number:04}.png")
            save(mask / 255, folder, f"{part}/masks/{number:04}.png")


def box(random: np.random.Generator) -> np.ndarray:
    """Return the outline of a rectangle (8, 8) from 0 to 1."""
    height, width = random.integers(4, 9, size=2)
    shape = np.zeros((8, 8))
    shape[:height, :width] = random.uniform(0.6, 1)
    shape[1 : height - 1, 1 : width - 1] = 0
    return shape


def save(picture: np.ndarray, folder: Path, name: str) -> str:
    """Save a picture of values from 0 to 1 as a grey PNG file, and return its name."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(file)
    return name


def write_table(folder: Path, heading: list[str], rows: list[list[object]]) -> None:
    """Write the table of a folder."""
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, *rows])


if __name__ == "__main__":
    main()
