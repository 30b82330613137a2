"""Train RetinaNet on COCO or Mask R-CNN on Cityscapes with a derived network as backbone (D-DARTS, section 5.5).

    python examples/d_darts/detection.py --model retinanet --output runs/boxes
    python examples/d_darts/detection.py --config examples/d_darts/coco.yaml --data.root FOLDER --output runs/coco
    python examples/d_darts/detection.py --output runs/coco --resume

The first command trains for a few steps on synthetic images, written to runs/boxes/data in the layout of COCO, or of
Cityscapes with --model mask_rcnn. --help lists all settings. Requires pip install 'nas-plugins[detection]'.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import yaml
from detection_data import Cityscapes, Coco, loader
from detection_scenes import make_cityscapes, make_coco
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

from nas_plugins.backbone import Backbone, LastLevels, mask_rcnn, retinanet
from nas_plugins.config import reader as config
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs.directory import CHECKPOINT, CONFIG
from nas_plugins.runs.tables import append_epoch, read_table
from nas_plugins.training.callbacks import SeededEpochs
from nas_plugins.training.checkpoints import WholeCheckpoints
from nas_plugins.training.trainer import quiet, readable_errors
from search_spaces.baselines import BASELINES
from search_spaces.files import write_text_whole
from search_spaces.stems import Stem


@dataclass
class Body:
    """Settings of the backbone.

    Args:
        run: Run directory of a retraining whose weights are loaded; null for random weights.
        genotype: Genotype file, or name of a baseline of DARTOpti, for random weights. Default without a
            run: resnet18_chained, the ResNet-18 of Tables 4 and 5.
        channels: Channels of a network made from a genotype; ignored with a run.
        layers: Layers of a network made from a genotype; ignored with a run.
        stem: Stem of a network made from a genotype; ignored with a run.
        out_channels: Channels of every pyramid level.
        levels: Number of stages, counted from the last, that the pyramid is built on; null for all.
        last_levels: Extra levels above the last stage; see nas_plugins.backbone.LastLevels.
        trainable_stages: Number of trained stages, counted from the last; null for all.
        frozen_norm: Whether the batch normalization of the trained stages is frozen, too.
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
        """Build the backbone.

        Raises:
            InputError: The run or the genotype is invalid, or the settings contradict each other.
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
    """Settings of the images.

    Args:
        root: Folder of COCO or Cityscapes; null for synthetic images.
        batch_size: Images per batch on each device.
        min_size: Pixels of the shorter side of a resized image.
        max_size: Upper limit of the longer side of a resized image in pixels, which takes precedence.
        smallest_anchor: Side of the smallest anchor in pixels.
        workers: Number of processes that load images.
    """

    root: str | None = None
    batch_size: PositiveInt = 2
    min_size: PositiveInt = 128
    max_size: PositiveInt = 256
    smallest_anchor: PositiveInt = 16
    workers: NonNegativeInt = 0


@dataclass
class Training:
    """Settings of SGD, whose learning rate rises linearly during warm-up and drops to a tenth at each milestone.

    Args:
        epochs: Passes over the training images.
        learning_rate: Learning rate after the warm-up.
        warmup: Iterations of the warm-up; limited to those of the first epoch.
        milestones: Epochs at which the learning rate drops.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        proposals: Regions per image that train the heads of Mask R-CNN, up to a quarter of them objects.
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
    """Settings of the hardware.

    Args:
        devices: Number of devices.
    """

    devices: PositiveInt = 1


@dataclass
class Settings:
    """All settings of a training, as its config file stores them.

    Args:
        model: "retinanet" finds boxes in COCO, "mask_rcnn" boxes and masks in Cityscapes.
        seed: Seed of all random numbers.
        backbone: Settings of the backbone.
        data: Settings of the images.
        training: Settings of the optimizer.
        compute: Settings of the hardware.
    """

    model: Literal["retinanet", "mask_rcnn"] = "retinanet"
    seed: NonNegativeInt = 0
    backbone: Body = field(default_factory=Body)
    data: Images = field(default_factory=Images)
    training: Training = field(default_factory=Training)
    compute: Compute = field(default_factory=Compute)

    def to_yaml(self) -> str:
        """Return the text of the config file, with absolute paths, so that it can be used from any folder."""
        values = asdict(self)
        for section, key in (("data", "root"), ("backbone", "run"), ("backbone", "genotype")):
            path = values[section][key]
            if path is not None and path not in BASELINES:
                values[section][key] = str(Path(path).expanduser().absolute())
        plain = json.loads(json.dumps(values))  # converts the number types of jsonargparse to plain ones
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def parser() -> ArgumentParser:
    """Return the parser of the command line and of the config file, which have the same keys."""
    made = ArgumentParser(prog="detection.py", description=__doc__.splitlines()[0], exit_on_error=False)
    made.add_argument("--config", action="config", help="config file; later keys of the command line win")
    made.add_argument("--output", help="folder to make")
    made.add_argument("--resume", action="store_true", help="go on in that folder, with its settings")
    made.add_class_arguments(Settings)
    return made


class Detection(pl.LightningModule):
    """Detector training that writes losses and average precisions to a table, one row per epoch.

    Args:
        model: RetinaNet or Mask R-CNN of torchvision.
        training: Settings of the optimizer.
        iou_types: Evaluated predictions: "bbox", and "segm" for masks.
        table: CSV file to write.
    """

    def __init__(self, model: nn.Module, training: Training, iou_types: tuple[str, ...], table: Path) -> None:
        super().__init__()
        self.model = model
        self.training_settings = training
        self.iou_types = iou_types
        self.table = table
        self.average_precision = MeanAveragePrecision(iou_type=iou_types)

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], batch_idx: int) -> Tensor:
        """Return the sum of the losses of the detector, and log it."""
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
        """Update the average precision with the predictions of a batch."""
        images, targets = batch
        found = self.model(images)
        for one in found:
            if "masks" in one:
                one["masks"] = one["masks"][:, 0] > 0.5
        self.average_precision.update(found, targets)

    def on_validation_epoch_end(self) -> None:
        """Log the columns of Tables 4 and 5: AP, AP50, AP75, and AP of small, medium and large objects."""
        values = self.average_precision.compute()
        self.average_precision.reset()
        for kind in self.iou_types:
            prefix = f"{kind}_" if len(self.iou_types) > 1 else ""
            for column in ("map", "map_50", "map_75", "map_small", "map_medium", "map_large"):
                self.log(f"{kind}_{column}", values[f"{prefix}{column}"].float(), prog_bar=column == "map")

    def on_train_epoch_end(self) -> None:
        """Write the row of the epoch, and print it if there is no terminal with a progress bar."""
        row = {"epoch": self.current_epoch} | {k: float(v) for k, v in sorted(self.trainer.callback_metrics.items())}
        if self.trainer.is_global_zero:
            append_epoch(self.table, self.current_epoch, [row])
            if not sys.stderr.isatty():
                shown = [f"{name} {row[name]:.4f}" for name in row if name == "train_loss" or name.endswith("_map")]
                print(f"epoch {self.current_epoch + 1}/{self.trainer.max_epochs}", *shown, sep="  ", flush=True)

    def configure_optimizers(self) -> Any:
        """Return SGD for the trainable parameters, as in the reference training of torchvision, and its schedules."""
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
    """Return a Lightning trainer that saves a checkpoint after every epoch.

    Raises:
        InputError: The machine lacks the devices, or the devices do not support the precision.
    """
    compute, terminal = settings.compute, sys.stderr.isatty()
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    try:
        return pl.Trainer(
            max_epochs=settings.training.epochs,
            accelerator=compute.accelerator,
            devices=compute.devices,
            # A cell may ignore an input, which leaves the weights of its preprocessing unused.
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
    """Train a detector in a folder, and resume from the last complete epoch if there is one.

    Raises:
        InputError: A setting or a file cannot be used.
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
    # Computed here: the trainer would sample the image order to answer, before its seed is set.
    iterations = math.ceil(len(learned) / (images.batch_size * settings.compute.devices))
    training = replace(training, warmup=min(training.warmup, iterations))
    checkpoint = output / CHECKPOINT
    with readable_errors(checkpoint, "the same command with --resume"):
        trainer.fit(
            Detection(model, training, kind.iou_types, output / "metrics.csv"),
            loader(learned, images.batch_size, images.workers, learn=True),
            loader(tested, images.batch_size, images.workers, learn=False),
            ckpt_path=checkpoint if checkpoint.exists() else None,
        )


def read(arguments: Sequence[str]) -> tuple[Settings, Path]:
    """Return the settings and the output folder; a resume reads the settings of the folder and applies overrides.

    Raises:
        InputError: A setting is unknown or wrong, or the folder cannot be used.
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
    """Run the script and return the exit status: 0, 2 for bad input, 130 if interrupted."""
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
