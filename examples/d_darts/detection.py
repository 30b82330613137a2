"""Section 5.5 of D-DARTS: a derived network as the backbone of RetinaNet on COCO, or of Mask R-CNN on Cityscapes.

    python examples/d_darts/detection.py --model retinanet --output runs/boxes
    python examples/d_darts/detection.py --config examples/d_darts/coco.yaml --data.root FOLDER --output runs/coco
    python examples/d_darts/detection.py --output runs/coco --resume

The first trains for a few steps on images that are made up, and written to runs/boxes/data as COCO has them, or with
--model mask_rcnn as Cityscapes has them. --help lists all settings. It needs pip install 'nas-plugins[detection]'.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from PIL import Image, ImageDraw
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.detection import MeanAveragePrecision
from torchvision import datasets, tv_tensors
from torchvision.ops import box_convert, clip_boxes_to_image, masks_to_boxes
from torchvision.transforms import v2

from nas_plugins import config
from nas_plugins.backbone import Backbone, LastLevels, mask_rcnn, retinanet
from nas_plugins.checkpoints import WholeCheckpoints
from nas_plugins.errors import InputError
from nas_plugins.fitting import SeededEpochs, guarded, quiet
from nas_plugins.images import check_images
from nas_plugins.run import CHECKPOINT, CONFIG
from nas_plugins.tables import append_epoch, one_line, read_table
from search_spaces.baselines import BASELINES
from search_spaces.files import write_text_whole
from search_spaces.network import Stem

Sample = tuple[Tensor, dict[str, Any]]
"""An image of values from 0 to 1, and its objects: boxes, labels, masks, and whether each is a crowd of them."""


# Settings


@dataclass
class Body:
    """The backbone.

    Args:
        run: run directory of a retraining, whose weights it begins with; null for none.
        genotype: genotype file, or the name of a baseline of DARTOpti, for random weights; null, without a
            run, for resnet18_chained: ResNet-18, a row of Tables 4 and 5.
        channels, layers, stem: of the network of a genotype; a run has its own.
        out_channels, levels, last_levels, trainable_stages, frozen_norm: see nas_plugins.backbone.Backbone.
    """

    run: str | None = None
    genotype: str | None = None
    channels: PositiveInt = 8
    layers: PositiveInt | None = None
    stem: Stem = "imagenet"
    out_channels: PositiveInt = 64
    levels: PositiveInt | None = None
    last_levels: LastLevels = "pool"
    trainable_stages: NonNegativeInt | None = None
    frozen_norm: bool = False

    def build(self) -> Backbone:
        """The backbone.

        Raises:
            InputError: the run or the genotype is none, or what is given does not go together.
        """
        names = ("out_channels", "levels", "last_levels", "trainable_stages", "frozen_norm")
        pyramid = {name: getattr(self, name) for name in names}
        if self.run is not None and self.genotype is not None:
            raise InputError(f"backbone.run: {self.run} should be null where backbone.genotype is {self.genotype}")
        if self.run is not None:
            backbone = Backbone.from_run(self.run, **pyramid)
            if backbone.body.image_channels != 3:
                raise InputError(f"backbone.run: {self.run} was trained on grey images; it should know colour")
            return backbone
        if self.frozen_norm or self.trainable_stages is not None:
            raise InputError("backbone.run: null should be a run: random weights are not frozen")
        name = self.genotype or "resnet18_chained"
        return Backbone.from_genotype(BASELINES.get(name, name), self.channels, self.layers, self.stem, **pyramid)


@dataclass
class Images:
    """The images.

    Args:
        root: the folder of COCO or Cityscapes; null for images that are made up.
        batch_size: images in a batch, on each device.
        min_size, max_size: an image is resized to min_size pixels at its shorter side, or to
            max_size at its longer side where that is smaller.
        smallest_anchor: pixels of the smallest anchor.
        workers: processes that load images.
    """

    root: str | None = None
    batch_size: PositiveInt = 2
    min_size: PositiveInt = 128
    max_size: PositiveInt = 256
    smallest_anchor: PositiveInt = 16
    workers: NonNegativeInt = 0


@dataclass
class Training:
    """SGD, its learning rate rising linearly in the first epoch and falling to a tenth at each milestone.

    Args:
        epochs: passes over the training images.
        learning_rate: behind the warm-up.
        warmup: iterations of the warm-up; never more than the first epoch has.
        milestones: the epochs at which it falls.
        momentum, weight_decay: of SGD.
        proposals: regions of an image that the heads of Mask R-CNN are trained on, a quarter of them objects.
    """

    epochs: PositiveInt = 2
    learning_rate: PositiveFloat = 0.01
    warmup: NonNegativeInt = 4
    milestones: list[PositiveInt] = field(default_factory=list)
    momentum: ClosedUnitInterval = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    proposals: PositiveInt = 64


@dataclass
class Compute(config.Compute):
    """What the work runs on; as in a search, and

    Args:
        devices: how many.
    """

    devices: PositiveInt = 1


@dataclass
class Settings:
    """All settings of a training; the config file of its folder repeats it.

    Args:
        model: retinanet, which finds boxes in COCO, or mask_rcnn, which finds boxes and masks in Cityscapes.
        seed: of everything random.
        backbone, data, training, compute: sections.
    """

    model: Literal["retinanet", "mask_rcnn"] = "retinanet"
    seed: NonNegativeInt = 0
    backbone: Body = field(default_factory=Body)
    data: Images = field(default_factory=Images)
    training: Training = field(default_factory=Training)
    compute: Compute = field(default_factory=Compute)

    def to_yaml(self) -> str:
        """The text of that file, which finds its inputs from whatever folder it is used."""
        values = asdict(self)
        for section, key in (("data", "root"), ("backbone", "run"), ("backbone", "genotype")):
            path = values[section][key]
            if path is not None and path not in BASELINES:
                values[section][key] = str(Path(path).expanduser().absolute())
        plain = json.loads(json.dumps(values))  # jsonargparse has numbers of types of its own
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def parser() -> ArgumentParser:
    """The command line and the config file, which have the same keys."""
    made = ArgumentParser(prog="detection.py", description=__doc__.splitlines()[0], exit_on_error=False)
    made.add_argument("--config", action="config", help="config file; later keys of the command line win")
    made.add_argument("--output", help="folder to make")
    made.add_argument("--resume", action="store_true", help="go on in that folder, with its settings")
    made.add_class_arguments(Settings)
    return made


# Images of COCO and Cityscapes


class Coco(Dataset):
    """The boxes of COCO: ROOT/train2017/*.jpg and ROOT/annotations/instances_train2017.json; val2017 alike.

    Args:
        root: that folder.
        part: train or val.

    Attributes:
        classes: their names; the first has label 1.

    Raises:
        InputError: a part of it is missing or damaged.
    """

    iou_types = ("bbox",)

    def __init__(self, root: Path, part: str) -> None:
        folder, file = root / f"{part}2017", root / "annotations" / f"instances_{part}2017.json"
        for path, there in ((folder, folder.is_dir()), (file, file.is_file())):
            if not there:
                raise InputError(f"data.root: {root} should be a folder of COCO: it has no {path.relative_to(root)}")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it does
                self.source = datasets.CocoDetection(folder, file)
            self._check(folder)
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: no annotations as COCO has them: {one_line(error)}") from None
        coco = self.source.coco
        self.labels = {category: label for label, category in enumerate(sorted(coco.cats), start=1)}
        self.classes = [coco.cats[category]["name"] for category in sorted(coco.cats)]
        if part == "train":  # images without an object teach little, and a crowd is no object
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
        check_images([str(folder / name) for name in names], one_size=None)

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
    """The instances of Cityscapes: ROOT/leftImg8bit/train/CITY/*.png and ROOT/gtFine/train/CITY/*_instanceIds.png.

    In an instance file a pixel is 1000 · class + number, or, in a group of objects that nobody told
    apart, the class alone. Arguments and errors as of :class:`Coco`.
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
        check_images(self.source.images, one_size=None)
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
        boxes[:, 2:] += 1  # from the last pixel to its border
        target = {
            "boxes": boxes,
            "labels": torch.tensor([self.labels[int(one)] for one in kind[kept]], dtype=torch.int64),
            "iscrowd": crowd[kept].long(),
            "masks": masks.to(torch.uint8),
        }
        return v2.functional.to_image(picture), target


class Augmented(Dataset):
    """Images with values from 0 to 1, half of them mirrored for training, their objects with them."""

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


def loader(source: Coco | Cityscapes, images: Images, learn: bool) -> DataLoader:
    """Batches: lists of images and of their targets."""
    return DataLoader(
        Augmented(source, mirror=learn),
        batch_size=images.batch_size,
        shuffle=learn,
        num_workers=images.workers,
        collate_fn=lambda samples: tuple(map(list, zip(*samples, strict=True))),
    )


# Images that are made up


def scenes(
    count: int, seed: int, height: int, width: int
) -> Iterator[tuple[Image.Image, list[tuple[int, np.ndarray]]]]:
    """Grey noise with up to three objects: red boards (kind 0) and blue discs (kind 1), each with its mask."""
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
    """Write made-up images as COCO has them."""
    for part, count in (("train", 16), ("val", 8)):
        content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "board"}, {"id": 3, "name": "disc"}],  # COCO's numbers have gaps too
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
    """Write made-up images as Cityscapes has them: boards are cars, discs are persons."""
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


# Training


class Detection(pl.LightningModule):
    """Trains a detector, and writes its losses and average precisions into a table, a row an epoch.

    Args:
        model: RetinaNet or Mask R-CNN of torchvision.
        training: the settings.
        iou_types: bbox, and segm for masks.
        table: the CSV file.
    """

    def __init__(self, model: nn.Module, training: Training, iou_types: tuple[str, ...], table: Path) -> None:
        super().__init__()
        self.model = model
        self.training_settings = training
        self.iou_types = iou_types
        self.table = table
        self.average_precision = MeanAveragePrecision(iou_type=iou_types)

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], batch_idx: int) -> Tensor:
        """The sum of the losses of a detector, all of which are logged."""
        images, targets = batch
        losses = self.model(images, targets)
        loss = sum(losses.values())
        if not loss.isfinite():
            raise InputError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}: lower training.learning_rate"
            )
        self.log(
            "train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True
        )
        return loss

    def validation_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], batch_idx: int) -> None:
        """Keep what is found in a batch."""
        images, targets = batch
        found = self.model(images)
        for one in found:
            if "masks" in one:
                one["masks"] = one["masks"][:, 0] > 0.5
        self.average_precision.update(found, targets)

    def on_validation_epoch_end(self) -> None:
        """The columns of Tables 4 and 5: AP, AP50, AP75, and that of small, medium and large objects."""
        values = self.average_precision.compute()
        self.average_precision.reset()
        for kind in self.iou_types:
            prefix = f"{kind}_" if len(self.iou_types) > 1 else ""
            for column in ("map", "map_50", "map_75", "map_small", "map_medium", "map_large"):
                self.log(f"{kind}_{column}", values[f"{prefix}{column}"].float(), prog_bar=column == "map")

    def on_train_epoch_end(self) -> None:
        """Write the row of the epoch; a log that is no terminal gets a line."""
        row = {"epoch": self.current_epoch} | {k: float(v) for k, v in sorted(self.trainer.callback_metrics.items())}
        if self.trainer.is_global_zero:
            append_epoch(self.table, self.current_epoch, [row])
            if not sys.stderr.isatty():
                shown = [f"{name} {row[name]:.4f}" for name in row if name == "train_loss" or name.endswith("_map")]
                print(f"epoch {self.current_epoch + 1}/{self.trainer.max_epochs}", *shown, sep="  ", flush=True)

    def configure_optimizers(self) -> Any:
        """SGD for what is not frozen, as torchvision's reference training of detectors has it."""
        settings = self.training_settings
        optimizer = torch.optim.SGD(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        schedules = [{"scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, settings.milestones)}]
        if settings.warmup > 0:
            linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=settings.warmup)
            schedules.append({"scheduler": linear, "interval": "step"})
        return [optimizer], schedules


def make_trainer(settings: Settings, output: Path) -> pl.Trainer:
    """Lightning's trainer, with a checkpoint after every epoch.

    Raises:
        InputError: this machine has no such devices, or they no such precision.
    """
    compute, terminal = settings.compute, sys.stderr.isatty()
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    try:
        return pl.Trainer(
            max_epochs=settings.training.epochs,
            accelerator=compute.accelerator,
            devices=compute.devices,
            # A cell may leave an input unused, and with it the weights that bring it to its shape.
            strategy="ddp_find_unused_parameters_true" if compute.devices > 1 else "auto",
            precision=compute.precision,
            callbacks=[
                SeededEpochs(settings.seed),
                ModelCheckpoint(
                    output / "checkpoints", "last", enable_version_counter=False, save_on_train_epoch_end=True
                ),
                *([TQDMProgressBar()] if terminal else []),
            ],
            enable_progress_bar=terminal,
            plugins=[WholeCheckpoints()],
            default_root_dir=output,
            logger=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"compute: {compute.devices} × {compute.accelerator}, {compute.precision}: {error}") from None


@quiet()
def train(settings: Settings, output: Path) -> None:
    """Train a detector in a folder, from its last complete epoch where there is one.

    Raises:
        InputError: something given cannot be used.
    """
    if find_spec("pycocotools") is None:
        raise InputError("pycocotools is not installed: pip install 'nas-plugins[detection]'")
    images, training = settings.data, settings.training
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    trainer = make_trainer(settings, output)
    backbone = settings.backbone.build()
    root = output / "data" if images.root is None else Path(images.root)
    make, kind = (make_coco, Coco) if settings.model == "retinanet" else (make_cityscapes, Cityscapes)
    if images.root is None and not root.exists():
        make(root, settings.seed)
    learned, tested = kind(root, "train"), kind(root, "val")
    if learned.classes != tested.classes:
        raise InputError(f"data.root: {root} should have the same classes in train and val")
    arguments = (backbone, len(learned.classes) + 1, images.smallest_anchor)
    sizes = {"min_size": images.min_size, "max_size": images.max_size}
    if settings.model == "retinanet":
        model: nn.Module = retinanet(*arguments, **sizes)
    else:
        model = mask_rcnn(*arguments, box_batch_size_per_image=training.proposals, **sizes)
    if trainer.is_global_zero:
        write_text_whole(output / CONFIG, settings.to_yaml())
    # Not asked of the trainer, which would draw the order of the images for the answer, before their seed is set.
    iterations = math.ceil(len(learned) / (images.batch_size * settings.compute.devices))
    training = replace(training, warmup=min(training.warmup, iterations))
    checkpoint = output / CHECKPOINT
    with guarded(checkpoint):
        trainer.fit(
            Detection(model, training, kind.iou_types, output / "metrics.csv"),
            loader(learned, images, learn=True),
            loader(tested, images, learn=False),
            ckpt_path=checkpoint if checkpoint.exists() else None,
        )


def read(arguments: Sequence[str]) -> tuple[Settings, Path]:
    """The settings, and the folder; on a resume those of the folder, but for what the command line names.

    Raises:
        InputError: a setting is unknown or wrong, or the folder is not what it should be.
    """
    made = parser()
    try:
        given = made.parse_args(arguments)
        if given.output is None:
            raise InputError("--output: should be a folder to make")
        output = Path(given.output)
        if given.resume:
            if not (output / CONFIG).is_file():
                raise InputError(f"--output: {output} has no {CONFIG}: --resume goes on in a folder that was begun")
            given = made.parse_args(["--config", str(output / CONFIG), *arguments])
        elif output.exists() and (not output.is_dir() or any(output.iterdir())) and rank_zero_only.rank == 0:
            raise InputError(f"--output: {output} is there and no empty folder: choose another, or go on with --resume")
    except ArgumentError as error:
        raise InputError(str(error)) from None
    sections = {"backbone": Body, "data": Images, "training": Training, "compute": Compute}
    made_of = {name: section(**given[name].as_dict()) for name, section in sections.items()}
    return Settings(given.model, given.seed, **made_of), output


def main(arguments: Sequence[str]) -> int:
    """Run the script; the exit status is 0, 2 for bad input, 130 when interrupted."""
    try:
        settings, output = read(arguments)
        train(settings, output)
    except InputError as error:
        print(f"detection.py: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"detection.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("detection.py: interrupted; --resume goes on from the last complete epoch", file=sys.stderr)
        return 130
    if rank_zero_only.rank == 0:
        last = read_table(output / "metrics.csv", ["epoch"]).iloc[-1]
        found = [f"{name[:4]} AP {value:.1%}" for name, value in last.items() if str(name).endswith("_map")]
        print(f"{output}: trained; {', '.join(found)}; all epochs in {output / 'metrics.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
