"""COCO and Cityscapes data sets for detection, checked before the training starts."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, tv_tensors
from torchvision.ops import box_convert, clip_boxes_to_image, masks_to_boxes
from torchvision.transforms import v2

from nas_plugins.data.image_files import check_images
from nas_plugins.errors import InputError
from nas_plugins.files import one_line

Sample = tuple[Tensor, dict[str, Any]]
"""An image and its objects: boxes, labels, iscrowd (whether an object is a crowd) and, for Cityscapes, masks."""


class Coco(Dataset):
    """COCO boxes from ROOT/train2017/*.jpg and ROOT/annotations/instances_train2017.json, or from val2017.

    Args:
        root: Folder ROOT of the data set.
        part: Part of the data set, "train" or "val".

    Attributes:
        classes: Names of the classes; the first has label 1.

    Raises:
        InputError: A file is missing or damaged.
    """

    iou_types = ("bbox",)

    def __init__(self, root: Path, part: str) -> None:
        folder, file = root / f"{part}2017", root / "annotations" / f"instances_{part}2017.json"
        for path, there in ((folder, folder.is_dir()), (file, file.is_file())):
            if not there:
                raise InputError(f"data.root: {root} should be a folder of COCO: it has no {path.relative_to(root)}")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                self.source = datasets.CocoDetection(folder, file)
            self._check(folder)
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: no annotations as COCO has them: {one_line(error)}") from None
        coco = self.source.coco
        self.labels = {category: label for label, category in enumerate(sorted(coco.cats), start=1)}
        self.classes = [coco.cats[category]["name"] for category in sorted(coco.cats)]
        if part == "train":  # images whose only objects are crowds are of little use for training
            objects = {one["image_id"] for one in coco.anns.values() if not one.get("iscrowd", 0)}
            self.source.ids = [image for image in self.source.ids if image in objects]
        self.part = part

    def _check(self, folder: Path) -> None:
        coco = self.source.coco
        if not coco.imgs or not coco.anns or not coco.cats:
            raise ValueError("there should be images, annotations and categories")
        names = [image["file_name"] for image in coco.imgs.values()]
        there = {path.name for path in folder.iterdir()}
        for image, name in zip(coco.imgs, names, strict=True):
            if name not in there:
                raise InputError(f"data.root: image {image} has no file {folder / name}")
        for number, one in coco.anns.items():
            for key, known in (("image_id", coco.imgs), ("category_id", coco.cats)):
                if one[key] not in known:
                    raise ValueError(f"annotation {number} has {key} {one[key]}, which is not there")
            if len(one["bbox"]) != 4:
                raise ValueError(f"annotation {number} has the bbox {one['bbox']}, not [x, y, width, height]")
        check_images([str(folder / name) for name in names])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        picture, annotations = self.source[index]
        image = v2.functional.to_image(picture)
        annotations = [one for one in annotations if self.part == "val" or not one.get("iscrowd", 0)]
        boxes = torch.tensor([one["bbox"] for one in annotations], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": clip_boxes_to_image(box_convert(boxes, "xywh", "xyxy"), image.shape[-2:]),
            "labels": torch.tensor([self.labels[one["category_id"]] for one in annotations], dtype=torch.int64),
            "iscrowd": torch.tensor([one.get("iscrowd", 0) for one in annotations], dtype=torch.int64),
        }
        whole = (target["boxes"][:, 2:] > target["boxes"][:, :2]).all(dim=1)
        return image, {name: values[whole] for name, values in target.items()}


class Cityscapes(Dataset):
    """Cityscapes instances from ROOT/leftImg8bit/train/CITY/*.png and ROOT/gtFine/train/CITY/*_instanceIds.png.

    A pixel of an instance file is 1000 · class + number, or the class alone in a group of objects that
    were not labelled individually. Arguments and errors are those of :class:`Coco`.
    """

    iou_types = ("bbox", "segm")
    kinds = tuple(one for one in datasets.Cityscapes.classes if one.has_instances and not one.ignore_in_eval)
    labels = {kind.id: label for label, kind in enumerate(kinds, start=1)}
    classes = [kind.name for kind in kinds]

    def __init__(self, root: Path, part: str) -> None:
        for folder in (Path("leftImg8bit", part), Path("gtFine", part)):
            if not (root / folder).is_dir():
                raise InputError(f"data.root: {root} should be a folder of Cityscapes: it has no {folder}")
        try:
            self.source = datasets.Cityscapes(str(root), part, "fine", "instance")
        except OSError as error:
            raise InputError(f"data.root: {error.filename} should be the folder of a city: {error.strerror}") from None
        if not len(self.source):
            raise InputError(f"data.root: {root / 'leftImg8bit' / part} should have images in CITY/*_leftImg8bit.png")
        for image, (target,) in zip(self.source.images, self.source.targets, strict=True):
            if not Path(target).is_file():
                raise InputError(f"data.root: {image} has no file {target}")
        check_images(self.source.images)
        self.part = part

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        picture, instances = self.source[index]
        pixels = torch.from_numpy(np.array(instances, dtype=np.int64))
        ids = pixels.unique()
        crowd = ids < 1000
        kind = torch.where(crowd, ids, ids // 1000)
        known = torch.isin(kind, torch.tensor(list(self.labels)))
        kept = known if self.part == "val" else known & ~crowd
        masks = pixels == ids[kept][:, None, None]
        boxes = masks_to_boxes(masks)
        boxes[:, 2:] += 1  # from the index of the last pixel to its outer border
        target = {
            "boxes": boxes,
            "labels": torch.tensor([self.labels[int(one)] for one in kind[kept]], dtype=torch.int64),
            "iscrowd": crowd[kept].long(),
            "masks": masks.to(torch.uint8),
        }
        return v2.functional.to_image(picture), target


class Augmented(Dataset):
    """Data set with image values from 0 to 1; for training, half of the images and objects are mirrored."""

    def __init__(self, source: Coco | Cityscapes, mirror: bool) -> None:
        self.source = source
        self.steps = v2.Compose(
            [v2.RandomHorizontalFlip(0.5 if mirror else 0.0), v2.ToDtype(torch.float32, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        image, target = self.source[index]
        height, width = image.shape[-2:]
        typed = {"boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(height, width))}
        if "masks" in target:
            typed["masks"] = tv_tensors.Mask(target["masks"])
        image, moved = self.steps(image, {**target, **typed})
        return image.as_subclass(Tensor), {name: values.as_subclass(Tensor) for name, values in moved.items()}


def loader(source: Coco | Cityscapes, batch_size: int, workers: int, learn: bool) -> DataLoader:
    """Return a loader of batches, each a list of images and a list of targets."""
    return DataLoader(
        Augmented(source, mirror=learn),
        batch_size=batch_size,
        shuffle=learn,
        num_workers=workers,
        collate_fn=lambda samples: tuple(map(list, zip(*samples, strict=True))),
    )
