"""Synthetic images with objects, written in the file layouts of COCO and Cityscapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.ops import masks_to_boxes

from search_spaces.files import write_text_whole


def scenes(
    count: int, seed: int, height: int, width: int
) -> Iterator[tuple[Image.Image, list[tuple[int, np.ndarray]]]]:
    """Yield images of grey noise with up to three objects: red boards (kind 0) and blue discs (kind 1).

    Each object is a pair of its kind and its boolean mask, of shape (height, width).
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        picture = Image.fromarray(rng.integers(60, 140, (height, width, 3), dtype=np.uint8))
        objects: list[tuple[int, np.ndarray]] = []
        for _ in range(rng.integers(1, 4)):
            kind, (h, w) = int(rng.integers(2)), rng.integers(24, 56, 2)
            top, left = rng.integers(0, height - h), rng.integers(0, width - w)
            mask = Image.new("1", (width, height))
            draw = ImageDraw.Draw(mask)
            (draw.ellipse if kind else draw.rectangle)((left, top, left + w, top + h), fill=1)
            picture.paste((40, 60, 220) if kind else (220, 50, 40), mask=mask)
            shown = np.array(mask)
            objects = [(other, seen & ~shown) for other, seen in objects] + [(kind, shown)]
        yield picture, [(kind, seen) for kind, seen in objects if seen.any()]


def make_coco(root: Path, seed: int) -> None:
    """Write synthetic images and annotations in the layout of COCO."""
    for part, count in (("train", 16), ("val", 8)):
        content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "board"}, {"id": 3, "name": "disc"}],  # COCO has gaps between IDs
        }
        folder = root / f"{part}2017"
        folder.mkdir(parents=True)
        for number, (picture, objects) in enumerate(scenes(count, seed + (part == "val"), 128, 128), start=1):
            name = f"{number:012}.jpg"
            picture.save(folder / name, quality=95)
            content["images"].append({"id": number, "file_name": name, "height": 128, "width": 128})
            for kind, mask in objects:
                left, top, right, bottom = masks_to_boxes(torch.from_numpy(mask)[None])[0].tolist()
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": (1, 3)[kind],
                        "bbox": [left, top, right + 1 - left, bottom + 1 - top],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                    }
                )
        write_text_whole(root / "annotations" / f"instances_{part}2017.json", json.dumps(content))


def make_cityscapes(root: Path, seed: int) -> None:
    """Write synthetic images in the layout of Cityscapes: boards are cars, discs are persons."""
    for part, count in (("train", 16), ("val", 8)):
        folders = [root / name / part / "madeup" for name in ("leftImg8bit", "gtFine")]
        for folder in folders:
            folder.mkdir(parents=True)
        for number, (picture, objects) in enumerate(scenes(count, seed + (part == "val"), 96, 192)):
            name = f"madeup_{number:06}_000019"
            pixels = np.full((96, 192), 7, dtype=np.uint16)  # road
            for instance, (kind, mask) in enumerate(objects):
                pixels[mask] = 1000 * (26, 24)[kind] + instance
            picture.save(folders[0] / f"{name}_leftImg8bit.png")
            Image.fromarray(pixels).save(folders[1] / f"{name}_gtFine_instanceIds.png")
