"""Images that are held in memory: the same batches as those read on demand, and where they cannot be held."""

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from test_data import images_of, make_folder, message_of
from torch._subclasses.fake_tensor import FakeTensorMode

from nas_plugins.data import cache
from nas_plugins.data.augmentation import BatchTransform, Cutout, Normalize, RandomCrop, RandomErasing, RandomFlip
from nas_plugins.data.module import ImageData
from nas_plugins.data.samples import HeldSamples, collate
from nas_plugins.errors import InputError

AUGMENTED = {"crop_padding": 2, "flip": True, "cutout": 3, "random_erasing": 0.5, "batch_size": 3}


def batches(data: ImageData, loader: str = "train_dataloader") -> list:
    torch.manual_seed(0)
    return list(getattr(data, loader)())


def assert_same(some: list, others: list) -> None:
    assert len(some) == len(others) > 0
    for pair, other in zip(some, others, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(pair, other, strict=True))


def is_held(data: ImageData) -> bool:
    return isinstance(data.train_dataloader().dataset, HeldSamples)


def make_masked_folder(root):
    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind, shape, high in (("images", (8, 8, 3), 256), ("masks", (8, 8), 3)):
            (root / part / kind).mkdir(parents=True)
            for index in range(6):
                pixels = noise.integers(0, high, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"{index}.png")
    return root


class TestSameBatches:
    @pytest.mark.parametrize("size", [None, 12])
    def test_of_a_folder_of_images(self, tmp_path, size):
        make_folder(tmp_path)
        held, read = (
            ImageData(dataset="folder", root=str(tmp_path), image_size=size, cache=on, **AUGMENTED)
            for on in (True, False)
        )
        for loader in ("train_dataloader", "architecture_dataloader", "val_dataloader", "test_dataloader"):
            assert_same(batches(held, loader), batches(read, loader))
        assert is_held(held) and not is_held(read)

    def test_of_images_with_masks(self, tmp_path):
        make_masked_folder(tmp_path)
        held, read = (
            ImageData(dataset="folder", root=str(tmp_path), task="segmentation", image_size=10, cache=on, **AUGMENTED)
            for on in (True, False)
        )
        assert_same(batches(held), batches(read))
        images, masks = batches(held)[0]
        assert images.shape == (3, 3, 10, 10) and masks.shape == (3, 10, 10)
        assert set(torch.cat([masks for _, masks in batches(held)]).unique().tolist()) == {0, 1, 2, 255}

    def test_of_images_with_values(self, tmp_path):
        make_folder(tmp_path)
        lines = [f"{part}/cat/{i}.jpg,{i},{i * i}" for part in ("train", "test") for i in range(4)]
        (tmp_path / "values.csv").write_text("\n".join(["image,a,b", *lines]))
        held, read = (
            ImageData(dataset="folder", root=str(tmp_path), task="regression", labels="values.csv", cache=on)
            for on in (True, False)
        )
        assert_same(batches(held), batches(read))
        assert batches(held)[0][1].dtype == torch.float32


class TestWhetherHeld:
    def test_images_are_held_unless_they_are_many(self, tmp_path, monkeypatch):
        make_folder(tmp_path)
        assert is_held(ImageData()) and is_held(ImageData(dataset="folder", root=str(tmp_path)))
        monkeypatch.setattr("nas_plugins.data.module.AUTO_LIMIT", 16 * 16 * 16 * 3 - 1)
        assert not is_held(ImageData(dataset="folder", root=str(tmp_path)))
        assert is_held(ImageData(dataset="folder", root=str(tmp_path), cache=True))

    def test_random_areas_cannot_be_held(self):
        options = {"resized_crop": True, "image_size": 8}
        assert not is_held(ImageData(**options))
        message = message_of(ImageData(cache=True, **options))
        assert message.startswith("data.cache is True: it should be false or auto with resized_crop")

    def test_images_beyond_the_memory_are_refused(self, monkeypatch):
        monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
        with pytest.raises(InputError, match=r"^data\.cache: the images take 0\.0 GB, and cpu has 0\.0 GB free: use"):
            ImageData(cache=True).train_dataloader()

    def test_each_part_is_read_once(self, tmp_path):
        data = ImageData(dataset="folder", root=str(make_folder(tmp_path)))
        first = images_of(data.val_dataloader())
        for file in tmp_path.rglob("*.jpg"):
            file.unlink()
        assert torch.equal(images_of(data.val_dataloader()), first)


class TestMoves:
    def test_a_crop_is_a_window_of_the_padded_image_at_any_place(self):
        torch.manual_seed(0)
        image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
        crops, masks = RandomCrop(1, ignored=255)(image.repeat(900, 2, 1, 1), image[0].long().repeat(900, 1, 1))
        padded = torch.nn.functional.pad(image, [1] * 4)
        windows = {(y, x): padded[0, 0, y : y + 4, x : x + 4] for y in range(3) for x in range(3)}
        counts = [sum(torch.equal(crop[1], window) for crop in crops) for window in windows.values()]
        assert sum(counts) == 900 and min(counts) > 70
        assert torch.equal(masks == 255, crops[:, 0] == 0) and torch.equal(masks % 255, crops[:, 0].long())

    def test_half_of_the_images_are_mirrored_with_their_masks(self):
        torch.manual_seed(0)
        images = torch.arange(8, dtype=torch.uint8).view(1, 1, 2, 4).repeat(1000, 3, 1, 1)
        flipped, masks = RandomFlip()(images, images[:, 0].long())
        mirrored = (flipped[:, 0, 0, 0] == 3).float()
        assert 0.45 < mirrored.mean() < 0.55
        assert torch.equal(masks, flipped[:, 1].long())
        assert torch.equal(flipped[mirrored == 1], images[mirrored == 1].flip(-1))

    def test_on_an_accelerator_nothing_goes_through_the_host(self):
        """Fake tensors refuse to mix devices, and to tell their values."""
        with FakeTensorMode():
            moves = [RandomCrop(2, 255), RandomFlip()]
            values = [Normalize([0.5] * 3, [0.2] * 3), Cutout(3), RandomErasing(0.5)]
            held = HeldSamples(
                torch.empty(9, 3, 8, 8, dtype=torch.uint8, device="cuda"),
                torch.empty(9, 8, 8, dtype=torch.int64, device="cuda"),
            )
            transform = BatchTransform(moves, values, dense=True).to("cuda")
            images, masks = collate(transform, held.__getitems__([3, 1]))
        assert images.device.type == masks.device.type == "cuda"
        assert images.shape == (2, 3, 8, 8) and masks.shape == (2, 8, 8)


def test_a_trainer_on_the_cpu_gets_held_images_and_no_workers():
    data = ImageData(workers=2)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    loader = data.train_dataloader()
    assert loader.num_workers == 0 and not loader.pin_memory
    assert ImageData(workers=2, cache=False).train_dataloader().num_workers == 2
