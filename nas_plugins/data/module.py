"""Lightning data module with the splits for search and retraining.

A data set is a pair of image stores (training, test), each a sequence of tensors (C, H, W): one tensor for the small
sets, files for a folder. Images are read and resized one by one, on demand or once into the memory of the device that
trains. Augmentation and normalization are applied to whole batches, on the device that holds their images.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt, restricted_number_type
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from nas_plugins.data import vehicles
from nas_plugins.data.augmentation import BatchTransform, Cutout, Normalize, RandomCrop, RandomErasing, RandomFlip
from nas_plugins.data.cache import AUTO_LIMIT, check_memory, hold
from nas_plugins.data.conventions import CONVENTIONS, DatasetName
from nas_plugins.data.image_files import channel_statistics, check_images
from nas_plugins.data.masks import load_masks
from nas_plugins.data.samples import HeldSamples, Samples, batch_of_a_share, collate
from nas_plugins.data.sources import Store, check, common_shape, load, stratified_order
from nas_plugins.data.tables import load_table
from nas_plugins.errors import InputError
from nas_plugins.tasks import TASKS, Targets, TaskName
from search_spaces.deprecation import renamed_arguments

if TYPE_CHECKING:
    Seed = int
else:
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # seeds that NumPy accepts


class ImageData(pl.LightningDataModule):
    """Training, validation and test images of one data set.

    `prepare()` sets `classes` (names of the outputs), `num_classes` (their number), `targets`, `image_channels`,
    `image_size` (pixels per side), `eight_bit` (whether all images have 8 bits per channel), `mean` and `std` (of each
    channel, for the normalisation), `parts` (image indices of "train", "val" and "test") and `lengths` (images per
    part).

    Args:
        dataset: Name of the data set: digits, cifar10, cifar100, fashion_mnist; folder for pictures or arrays in
            ROOT/train/CLASS/ and ROOT/test/CLASS/ (or ROOT/val/CLASS/); compcars_web, compcars_surveillance
            or miotcd for the vehicle data sets in their released layout (docs/datasets.md).
        root: Folder of the torchvision data sets or of the image files.
        download: Whether to download a missing torchvision data set into root.
        labels: CSV table of the labels or values of the images of a folder, for multilabel and regression; a relative
            path is one in root.
        class_names: Names of the classes of masks, from 0 on, for segmentation; null for numbers up to the highest
            one in the training masks.
        ignore_index: Value of ignored pixels in masks, for segmentation.
        batch_size: Images per batch.
        val_fraction: Share of the training images kept from the weights, from 0 to below 1. A search learns
            the architecture on them, a retraining validates on them. With 0 the weights train on all
            training images, and the test images serve for validation.
        train_images: Number of training images to use, with the classes in proportion; null for all.
        test_images: Number of test images to use, with the classes in proportion; null for all.
        image_size: Pixels per side of the square that every image is resized to; the aspect ratio is not kept.
            Null keeps the original size, which for files must be one square size.
        resized_crop: Whether to train on random areas of each image, resized to image_size, and to test on
            the centre of the image after resizing its shorter side to image_size · 256/224, as is usual for
            ImageNet. The aspect ratio is kept, and images may differ in size.
        crop_padding: Padding in pixels before a random crop in training; 0 for no crop, null for the usual
            padding (4; 0 for digits, files and resized_crop).
        flip: Whether to mirror training images left to right at random; null for the usual (all but digits and
            regressions).
        cutout: Side in pixels of the square cut out of every training image, from 0 (none) to the image size.
        random_erasing: Probability that a rectangle of a training image, 2% to 40% of its area, is replaced
            by noise, from 0 to 1 (Zhong et al., 2017, with random values).
        cache: Whether to read and resize the images once, and to hold them in the memory of each device that trains;
            ``"auto"`` if they take at most 2 GiB. Not possible with resized_crop.
        workers: Number of processes that load images which are not held in memory; 0 loads in the main process.
        seed: Seed of the split and of the subsets only.
        task: Name of the task, the key task of a config.
    """

    classes: list[str]
    num_classes: int
    targets: Targets
    image_channels: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    parts: dict[str, np.ndarray]
    lengths: dict[str, int]

    @renamed_arguments(held_out="val_fraction")
    def __init__(
        self,
        *,
        dataset: DatasetName = "digits",
        root: str = "data",
        download: bool = False,
        labels: str | None = None,
        class_names: list[str] | None = None,
        ignore_index: NonNegativeInt = 255,
        batch_size: PositiveInt = 64,
        val_fraction: ClosedUnitInterval = 0.5,
        train_images: PositiveInt | None = None,
        test_images: PositiveInt | None = None,
        image_size: PositiveInt | None = None,
        resized_crop: bool = False,
        crop_padding: NonNegativeInt | None = None,
        flip: bool | None = None,
        cutout: NonNegativeInt = 0,
        random_erasing: ClosedUnitInterval = 0.0,
        cache: Literal["auto"] | bool = "auto",
        workers: NonNegativeInt = 0,
        seed: Seed = 0,
        task: TaskName = "classification",
    ) -> None:
        super().__init__()
        conventions = CONVENTIONS[dataset]
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.download = download
        self.labels, self.class_names, self.ignore_index = labels, class_names, ignore_index
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.resized_crop = resized_crop
        usual_padding = 0 if resized_crop else conventions.crop_padding
        self.crop_padding = usual_padding if crop_padding is None else crop_padding
        self.task = TASKS[task]
        # In a regression, the value of a mirrored image may differ.
        self.flip = conventions.flip and task != "regression" if flip is None else flip
        self.cutout = cutout
        self.random_erasing = random_erasing
        self.cache = cache
        self.workers = workers
        self.seed = seed
        self.mean, self.std = conventions.mean, conventions.std
        self._subset = {"train": train_images, "test": test_images}
        self.resize_to = image_size
        self.eight_bit = True
        self._held: dict[tuple[str, torch.device], HeldSamples] = {}
        self._prepared = False

    def prepare(self) -> None:
        """Read the data set and check all that could stop a long run later; later calls do nothing.

        Raises:
            InputError: Images are missing, broken, too few or of several kinds.
        """
        if self._prepared:
            return
        right = "false or auto with resized_crop, which reads another area of an image each time"
        check("cache", self.cache, self.cache is not True or not self.resized_crop, right)
        self._train, self._test, self.classes = self._load()
        self.num_classes = len(self.classes)
        if self.task is TASKS["classification"]:
            check("root", str(self.root), self.num_classes > 1, "a folder with at least two classes")
        self.parts = self._split()
        self.targets = self._targets()
        self.lengths = {name: len(indices) for name, indices in self.parts.items()}
        if isinstance(self._train.images, Tensor):
            self.image_channels, self.image_size = self._train.images.shape[1:3]
        else:
            self._prepare_files()
        self.image_size = self.resize_to or self.image_size
        right = f"no larger than the images, which have {self.image_size} pixels a side"
        check("cutout", self.cutout, self.cutout <= self.image_size, right)
        self._prepared = True

    def _load(self) -> tuple[Store, Store, list[str]]:
        """Return the training images, the test images and the names of the outputs."""
        task = self.task.name
        in_table = task in ("multilabel", "regression")
        if self.task is not TASKS["classification"] and self.dataset != "folder":
            raise InputError(f"data.dataset: {self.dataset} has classes only; task: {task} is one for a folder")
        if in_table != (self.labels is not None):
            raise InputError(
                f"data.labels: {self.labels!r}, but task: {task} "
                + ("needs a CSV table of labels or values" if in_table else "has none; is the task another one?")
            )
        if self.class_names is not None and not self.task.dense:
            raise InputError(f"data.class_names: {self.class_names!r} is for task: segmentation, not {task}")
        if self.labels is not None:
            return load_table(self.root, self.labels, self.task)
        if self.task.dense:
            return load_masks(self.root, self.class_names, self.ignore_index)
        if self.dataset in vehicles.DATASETS:
            return vehicles.load(self.dataset, self.root)
        return load(self.dataset, self.root, self.download)

    def _targets(self) -> Targets:
        """Return the targets that the outputs are compared with."""
        names = tuple(self.classes)
        if self.task.name != "regression":
            return Targets(self.task, names, self.ignore_index)
        values = self._train.labels[self.parts["train"]].astype(np.float64)
        std = values.std(0)
        for name, constant in zip(names, std == 0, strict=True):
            if constant:
                raise InputError(f"data.labels: {name} has the same value in all training images")
        return Targets(self.task, names, mean=tuple(values.mean(0).tolist()), std=tuple(std.tolist()))

    def _prepare_files(self) -> None:
        """Check the image files, and measure the channel statistics of training images other than 8-bit photographs."""
        files = {part: self._files(part) for part in self.parts}
        forms = check_images([*itertools.chain(*files.values())])
        self.image_channels, self.image_size = common_shape(forms, any_size=self.resize_to is not None)
        self.eight_bit = all(form.eight_bit for form in forms)
        if not self.eight_bit or self.image_channels != len(self.mean):
            self.mean, self.std = channel_statistics(files["train"])

    def _files(self, part: str) -> list[str]:
        paths: Any = (self._test if part == "test" else self._train).images
        return [paths[index] for index in self.parts[part]]

    def check_memory(self, device: torch.device) -> None:
        """Raise an InputError if the images of a training are to be held but do not fit into the memory of a device.

        Args:
            device: The device that trains.
        """
        if self._is_held():
            check_memory(self._bytes("train", "val" if self.val_fraction > 0 else "test"), device)

    def setup(self, stage: str | None = None) -> None:
        """Prepare the data; called by Lightning before it asks for a loader."""
        self.prepare()

    def train_dataloader(self) -> DataLoader:
        """Return a loader of the training images, shuffled and augmented."""
        return self._loader("train", learn=True)

    def architecture_dataloader(self) -> DataLoader:
        """Return a loader of the validation images for the architecture steps, shuffled and augmented.

        Raises:
            InputError: `val_fraction` is 0.
        """
        right = "above 0, for example 0.5, where an architecture is learned from the held-out images"
        check("val_fraction", self.val_fraction, self.val_fraction > 0, right)
        return self._loader("val", learn=True)

    def val_dataloader(self) -> DataLoader:
        """Return a loader of the validation images, or of the test images if `val_fraction` is 0; not augmented."""
        return self._loader("val" if self.val_fraction > 0 else "test", learn=False)

    def test_dataloader(self) -> DataLoader:
        """Return a loader of the test images, in order and not augmented."""
        return self._loader("test", learn=False)

    def test_transform(self) -> v2.Transform:
        """Return the transform of a test image: from pixels of shape (C, H, W) to what the network sees."""
        return v2.Compose([self._per_image(learn=False), Normalize(self.mean, self.std)])

    def _split(self) -> dict[str, np.ndarray]:
        """Return the image indices of each part."""
        train, test = self._choose("train", self._train), self._choose("test", self._test)
        kept = len(train) - round(self.val_fraction * len(train))
        parts = {"train": train[:kept], "val": train[kept:], "test": test}
        learned = [parts["train"], parts["val"]] if self.val_fraction > 0 else [train]
        classifies = self.task is TASKS["classification"]
        found = [len(np.unique(self._train.labels[part])) if classifies else len(part) for part in learned]
        if min(found) < (self.num_classes if classifies else 1):
            raise InputError(
                f"data.val_fraction is {self.val_fraction!r} and data.train_images {self._subset['train']!r}: of "
                f"{len(train)} images, {kept} train and {len(train) - kept} validate, and each of the two should have "
                f"an image{f' of each of the {self.num_classes} classes' if classifies else ''}"
            )
        return {name: np.sort(indices) for name, indices in parts.items()}

    def _choose(self, name: str, store: Store) -> np.ndarray:
        """Return the indices of the used images of a store in stratified order; random for tasks without classes."""
        labels = store.labels if self.task is TASKS["classification"] else np.zeros(len(store.labels), int)
        wanted, all_images = self._subset[name], len(labels)
        check(f"{name}_images", wanted, (wanted or 0) <= all_images, f"at most {all_images}, all there are")
        return stratified_order(labels, self.seed)[:wanted]

    def _loader(self, part: str, learn: bool) -> DataLoader:
        self.prepare()
        trainer = self.trainer
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        images, on_device = self._samples(part, learn, device)
        kind: dict[str, Any] = {
            "num_workers": 0 if isinstance(images, HeldSamples) else self.workers,
            "collate_fn": partial(collate, self._per_batch(learn).to(on_device)),
            # Pinned memory can be copied to a GPU while the GPU computes.
            "pin_memory": device.type == "cuda" and on_device.type == "cpu",
        }
        if learn:
            drop_last = len(images) >= self.batch_size
            return DataLoader(images, self.batch_size, shuffle=True, drop_last=drop_last, **kind)
        # Ask the trainer, not torch.distributed: after a fit on several devices, the main process tests alone.
        if trainer is None or not 1 < trainer.world_size <= len(images):
            return DataLoader(images, self.batch_size, **kind)
        # Lightning's default sampler repeats images to even out the shares of the processes.
        sampler = UnrepeatedDistributedSampler(images, trainer.world_size, trainer.global_rank, shuffle=False)
        batch = batch_of_a_share(self.batch_size, len(images), trainer.world_size)
        return DataLoader(images, batch, sampler=sampler, **kind)

    def _samples(self, part: str, learn: bool, device: torch.device) -> tuple[Samples | HeldSamples, torch.device]:
        """Return the samples of a part, held in memory or read on demand, and the device on which batches are made."""
        store = self._test if part == "test" else self._train
        samples = Samples(store, self.parts[part], self._per_image(learn), self.task)
        if not self._is_held():
            return samples, torch.device("cpu")
        if (part, device) not in self._held:
            self._held[part, device] = hold(samples, device)
        return self._held[part, device], device

    def _is_held(self) -> bool:
        if self.cache != "auto":
            return self.cache
        return not self.resized_crop and self._bytes(*self.lengths) <= AUTO_LIMIT

    def _bytes(self, *parts: str) -> int:
        """Return the size of the images of some parts in memory, with their masks."""
        values = self.image_channels * (1 if self.eight_bit else 4) + (8 if self.task.dense else 0)
        return sum(self.lengths[part] for part in parts) * self.image_size**2 * values

    def _per_image(self, learn: bool) -> v2.Transform:
        steps: list[Any] = [] if self.eight_bit else [v2.ToDtype(torch.float32, scale=True)]
        size = (self.image_size, self.image_size)
        if self.resized_crop and learn:
            steps.append(v2.RandomResizedCrop(size))
        elif self.resized_crop:
            steps += [v2.Resize(round(self.image_size * 256 / 224)), v2.CenterCrop(size)]
        elif self.resize_to:
            steps.append(v2.Resize(size))
        return v2.Compose(steps or [v2.Identity()])

    def _per_batch(self, learn: bool) -> BatchTransform:
        moves: list[nn.Module] = []
        values: list[nn.Module] = [Normalize(self.mean, self.std)]
        if learn and self.crop_padding:
            moves.append(RandomCrop(self.crop_padding, self.ignore_index))
        if learn and self.flip:
            moves.append(RandomFlip())
        if learn and self.cutout:
            values.append(Cutout(self.cutout))
        if learn and self.random_erasing:
            values.append(RandomErasing(self.random_erasing))
        return BatchTransform(moves, values, self.task.dense)
