"""What ImageData promises: the parts of a data set, what is done to its images, and errors of one line."""

import gc
import json
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jsonargparse import ArgumentParser
from PIL import Image

from nas_plugins.data.augmentation import Cutout, RandomErasing
from nas_plugins.data.image_files import check_images, read_image
from nas_plugins.data.module import ImageData
from nas_plugins.data.sources import stratified_order
from nas_plugins.errors import InputError
from nas_plugins.training.retrain import evaluate, retrain
from search_spaces.genotype import Genotype


def make_folder(root: Path, per_class: int = 4, size: tuple[int, int] = (16, 16), parts=("train", "test")) -> Path:
    """Noisy JPEG images of the classes cat and dog."""
    noise = np.random.default_rng(0)
    for part in parts:
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                pixels = noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return root


def folder_data(root: Path, **options) -> ImageData:
    return ImageData(dataset="folder", root=str(root), **options)


def cut_in_the_middle(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def make_fashion_mnist(root: Path) -> None:
    """The four files of Fashion-MNIST in its own format, with 40 training and 20 test images of noise."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 20)):
        images = noise.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4").tobytes()
            (raw / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


def message_of(data: ImageData) -> str:
    with pytest.raises(InputError) as caught:
        data.prepare()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def images_of(loader) -> torch.Tensor:
    return torch.cat([images for images, _ in loader])


def class_counts(loader) -> np.ndarray:
    return torch.cat([labels for _, labels in loader]).bincount().numpy()


class TestParts:
    def test_digits_are_there_without_any_file(self):
        data = ImageData()
        data.prepare()
        assert (data.num_classes, data.image_channels, data.image_size) == (10, 1, 8)
        assert data.classes == [str(digit) for digit in range(10)]
        assert data.lengths == {"train": 719, "val": 719, "test": 359}

    @settings(max_examples=25, deadline=None)
    @given(val_fraction=st.floats(0.05, 0.95), seed=st.integers(0, 2**32 - 1), images=st.integers(300, 1438))
    def test_the_split_is_disjoint_complete_and_balanced(self, val_fraction, seed, images):
        data = ImageData(val_fraction=val_fraction, seed=seed, train_images=images, batch_size=images)
        data.prepare()
        train, kept = data.parts["train"], data.parts["val"]
        assert len(np.union1d(train, kept)) == len(train) + len(kept) == images
        assert len(kept) == round(val_fraction * images)
        weights, architecture = class_counts(data.train_dataloader()), class_counts(data.val_dataloader())
        assert np.abs(architecture - val_fraction * (weights + architecture)).max() <= 2

    @given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), seed=st.integers(0, 9), data=st.data())
    def test_any_stretch_of_the_order_has_the_classes_in_proportion(self, counts, seed, data):
        labels = np.repeat(np.arange(len(counts)), counts)
        order = stratified_order(labels, seed)
        assert sorted(order) == list(range(len(labels)))
        length = data.draw(st.integers(0, len(labels)))
        got = np.bincount(labels[order[:length]], minlength=len(counts))
        # A class is at most one off where all are cut at one share; that share is off by C/2 images.
        assert np.abs(got - np.array(counts) * length / len(labels)).max() <= 1 + len(counts) / 2

    def test_the_split_depends_on_the_seed_alone(self):
        def val_fraction(seed: int, global_seed: int) -> list[int]:
            pl.seed_everything(global_seed, verbose=False)
            data = ImageData(seed=seed)
            data.prepare()
            return data.parts["val"].tolist()

        assert val_fraction(1, global_seed=1) == val_fraction(1, global_seed=2) != val_fraction(2, global_seed=1)

    def test_the_test_digits_are_the_same_for_every_seed(self):
        first, second = ImageData(seed=1), ImageData(seed=2)
        assert torch.equal(images_of(first.test_dataloader()), images_of(second.test_dataloader()))

    def test_subsets_are_balanced(self):
        data = ImageData(train_images=100, test_images=20)
        data.prepare()
        assert data.lengths == {"train": 50, "val": 50, "test": 20}
        assert set(class_counts(data.val_dataloader())) <= {4, 5, 6}
        assert set(class_counts(data.test_dataloader())) <= {1, 2, 3}

    def test_holding_out_nothing_trains_on_all_and_validates_on_the_test_images(self):
        data = ImageData(val_fraction=0)
        assert torch.equal(images_of(data.val_dataloader()), images_of(data.test_dataloader()))
        assert data.lengths["train"] == 1438

    def test_an_architecture_cannot_be_learned_when_nothing_is_held_out(self):
        with pytest.raises(InputError, match=r"data\.val_fraction is 0: .* above 0"):
            ImageData(val_fraction=0).architecture_dataloader()

    def test_a_split_that_leaves_a_class_out_names_the_numbers(self):
        message = message_of(ImageData(val_fraction=0.001))
        assert message.startswith("data.val_fraction is 0.001") and "1438" in message and "10 classes" in message

    @pytest.mark.parametrize("count", [1, 9])
    def test_a_subset_without_all_classes_is_refused(self, count):
        message = message_of(ImageData(train_images=count))
        assert f"data.train_images {count}: of {count} images" in message and "10 classes" in message

    def test_too_many_training_images_are_refused(self):
        message = message_of(ImageData(train_images=1439))
        assert message == "data.train_images is 1439: it should be at most 1438, all there are"

    def test_too_many_test_images_are_refused(self):
        assert "data.test_images is 360" in message_of(ImageData(test_images=360))


class TestLoaders:
    def test_batches_are_normalised_floats_and_whole_number_labels(self):
        images, labels = next(iter(ImageData(batch_size=500).train_dataloader()))
        assert images.shape == (500, 1, 8, 8) and images.dtype == torch.float32 and labels.dtype == torch.int64
        assert abs(images.mean()) < 0.1 and abs(images.std() - 1) < 0.1

    def test_learning_drops_the_last_incomplete_batch(self):
        data = ImageData(batch_size=100)
        assert len(images_of(data.train_dataloader())) == len(images_of(data.architecture_dataloader())) == 700

    def test_learning_keeps_the_only_batch(self):
        assert len(images_of(ImageData(batch_size=5000).train_dataloader())) == 719

    def test_validation_sees_every_held_out_image_in_the_same_order(self):
        data = ImageData(batch_size=100, cutout=4, crop_padding=1, flip=True)
        first, second = images_of(data.val_dataloader()), images_of(data.val_dataloader())
        assert len(first) == 719 and torch.equal(first, second)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_global_seed_decides_what_is_learned_from(self, workers):
        data = ImageData(cutout=4, crop_padding=1, flip=True, train_images=200, workers=workers, cache=False)

        def batches(seed: int) -> torch.Tensor:
            torch.manual_seed(seed)
            return images_of(data.train_dataloader())

        assert torch.equal(batches(1), batches(1))
        assert not torch.equal(batches(1), batches(2))

    def test_the_architecture_learns_from_augmented_images(self):
        data = ImageData(val_fraction=0.2, batch_size=1000, cutout=8)
        learned, seen = images_of(data.architecture_dataloader()), images_of(data.val_dataloader())
        assert (learned == 0).float().mean() > 0.2 > (seen == 0).float().mean()

    def test_images_are_resized(self):
        data = ImageData(image_size=12)
        assert next(iter(data.test_dataloader()))[0].shape == (64, 1, 12, 12)
        assert data.image_size == 12

    def test_lightning_fits_on_it(self, tmp_path):
        class Linear(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(64, 10)

            def loss(self, batch):
                return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

            def training_step(self, batch):
                return self.loss(batch)

            def validation_step(self, batch):
                self.log("loss", self.loss(batch))

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), lr=0.01)

        trainer = pl.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(Linear(), datamodule=ImageData())
        assert trainer.callback_metrics["loss"] < 1.5

    def test_the_arguments_are_keys_of_a_yaml_file(self):
        parser = ArgumentParser()
        parser.add_class_arguments(ImageData, "data")
        config = parser.parse_string("data: {batch_size: 8, flip: null, image_size: 16, val_fraction: 0}")
        data = ImageData(**config.data.as_dict())
        assert next(iter(data.val_dataloader()))[0].shape == (8, 1, 16, 16)


class TestCutout:
    def test_a_square_in_the_middle_has_the_asked_side(self):
        torch.manual_seed(0)
        blanked = (Cutout(5)(torch.ones(500, 3, 32, 32)) == 0).sum((2, 3))
        assert blanked.max() == 25 and (blanked[:, 0] == blanked[:, 2]).all()

    def test_a_square_at_the_border_is_clipped(self):
        torch.manual_seed(0)
        blanked = (Cutout(4)(torch.ones(500, 1, 8, 8)) == 0).sum((1, 2, 3))
        assert blanked.min() == 4 and blanked.max() == 16

    def test_every_image_gets_its_own_square(self):
        torch.manual_seed(0)
        images = Cutout(2)(torch.ones(50, 1, 32, 32))
        assert len(torch.unique(images, dim=0)) > 40


class TestRandomErasing:
    def test_an_image_in_two_has_a_rectangle_of_noise(self):
        torch.manual_seed(0)
        changed = RandomErasing(0.5)(torch.full((1000, 3, 32, 32), 9.0)) != 9
        share = changed.flatten(1).float().mean(1)
        erased = share > 0
        assert 0.45 < erased.float().mean() < 0.55
        assert 0.01 < share[erased].min() < 0.03
        assert 0.37 < share[erased].max() < 0.42
        assert (changed[:, 0] == changed[:, 2]).all()

    def test_every_image_gets_its_own_rectangle_and_noise(self):
        torch.manual_seed(0)
        erased = RandomErasing(1.0)(torch.zeros(50, 1, 32, 32))
        assert len(torch.unique(erased != 0, dim=0)) > 40
        noise = erased[erased != 0]
        assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05

    def test_only_learning_erases(self):
        data = ImageData(dataset="digits", random_erasing=1.0, train_images=200, batch_size=50)
        plain = ImageData(dataset="digits", train_images=200, batch_size=50)
        assert torch.equal(images_of(data.val_dataloader()), images_of(plain.val_dataloader()))
        levels = [len(torch.unique(images_of(some.train_dataloader()))) for some in (data, plain)]
        assert levels[0] > 10 * levels[1]  # noise has other values than the 17 grey levels


class TestResizedCrop:
    def test_learns_from_areas_of_images_of_any_size_and_tests_on_the_centre(self, tmp_path):
        make_folder(tmp_path, size=(60, 40))
        Image.new("RGB", (9, 50)).save(tmp_path / "train/cat/thin.png")
        data = folder_data(tmp_path, image_size=28, resized_crop=True, val_fraction=0, batch_size=8)
        assert next(iter(data.train_dataloader()))[0].shape == (8, 3, 28, 28)
        assert data.image_size == 28 and data.crop_padding == 0
        first, second = images_of(data.test_dataloader()), images_of(data.test_dataloader())
        assert first.shape == (8, 3, 28, 28) and torch.equal(first, second)

    def test_the_centre_is_cut_out_of_an_image_an_eighth_larger(self, tmp_path):
        make_folder(tmp_path, size=(64, 32))
        for file in (tmp_path / "test").rglob("*.jpg"):
            pixels = np.zeros((32, 64, 3), dtype=np.uint8)
            pixels[2:30, 18:46] = 255  # 28 of the 32 pixels of the shorter side, around the centre
            Image.fromarray(pixels).save(file.with_suffix(".png"))
            file.unlink()
        data = folder_data(tmp_path, image_size=28, resized_crop=True)
        assert (images_of(data.test_dataloader()) > 2).all()  # white, normalised

    def test_every_epoch_sees_other_areas(self, tmp_path):
        data = folder_data(make_folder(tmp_path, size=(40, 40)), image_size=16, resized_crop=True, flip=False)
        torch.manual_seed(0)
        first, second = images_of(data.train_dataloader()), images_of(data.train_dataloader())
        assert not torch.equal(first.sort(0).values, second.sort(0).values)

    def test_takes_the_place_of_the_usual_crop(self):
        assert ImageData(dataset="cifar10").crop_padding == 4
        assert ImageData(dataset="cifar10", resized_crop=True, image_size=32).crop_padding == 0


class TestArguments:
    def test_a_cutout_larger_than_the_images_is_refused(self):
        message = message_of(ImageData(cutout=9))
        assert "data.cutout is 9" in message and "8 pixels" in message


class TestTorchvision:
    @pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "fashion_mnist"])
    def test_missing_files_say_how_to_get_them(self, dataset, tmp_path):
        message = message_of(ImageData(dataset=dataset, root=str(tmp_path)))
        assert "data.root" in message and str(tmp_path) in message and "--data.download true" in message

    def test_files_in_place_are_read(self, tmp_path):
        make_fashion_mnist(tmp_path)
        data = ImageData(dataset="fashion_mnist", root=str(tmp_path), batch_size=10)
        assert next(iter(data.train_dataloader()))[0].shape == (10, 1, 28, 28)
        assert data.classes[0] == "T-shirt/top"

    def test_a_damaged_file_is_an_input_error(self, tmp_path):
        make_fashion_mnist(tmp_path)
        cut_in_the_middle(tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte")
        assert "fashion_mnist" in message_of(ImageData(dataset="fashion_mnist", root=str(tmp_path)))


class TestFolder:
    def test_the_folders_are_the_classes(self, tmp_path):
        data = folder_data(make_folder(tmp_path), batch_size=4)
        assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 16, 16)
        assert data.classes == ["cat", "dog"] and data.image_size == 16
        assert data.lengths == {"train": 4, "val": 4, "test": 8}

    def test_val_stands_in_for_test(self, tmp_path):
        data = folder_data(make_folder(tmp_path, parts=("train", "val")))
        data.prepare()
        assert data.lengths["test"] == 8

    def test_images_of_any_shape_can_be_resized(self, tmp_path):
        make_folder(tmp_path, size=(30, 20))
        Image.new("L", (9, 50)).save(tmp_path / "train/cat/grey.png")
        data = folder_data(tmp_path, image_size=8, val_fraction=0, batch_size=9)
        assert next(iter(data.train_dataloader()))[0].shape == (9, 3, 8, 8)

    def test_images_that_are_not_square_need_a_size(self, tmp_path):
        message = message_of(folder_data(make_folder(tmp_path, size=(30, 20))))
        assert "data.image_size" in message and "30x20" in message

    def test_images_of_two_sizes_need_a_size(self, tmp_path):
        odd = make_folder(tmp_path) / "test" / "dog" / "3.jpg"
        Image.new("RGB", (17, 16)).save(odd)
        message = message_of(folder_data(tmp_path))
        assert "data.image_size" in message and str(odd) in message and "17x16" in message

    @pytest.mark.parametrize("missing", ["", "train", "test"])
    def test_a_missing_folder_is_named(self, tmp_path, missing):
        make_folder(tmp_path / "root")
        (tmp_path / "root" / missing).rename(tmp_path / "elsewhere")
        message = message_of(folder_data(tmp_path / "root"))
        assert "data.root" in message and f"root/{missing or 'train'}'" in message and "ROOT/train/CLASS" in message

    def test_a_class_without_an_image_is_named(self, tmp_path):
        (make_folder(tmp_path) / "train" / "eel").mkdir()
        assert "eel" in message_of(folder_data(tmp_path))

    def test_a_folder_without_classes_is_refused(self, tmp_path):
        (tmp_path / "train").mkdir()
        assert "Couldn't find any class folder" in message_of(folder_data(tmp_path))

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_classes_that_differ_are_named(self, tmp_path, part):
        folder = make_folder(tmp_path) / part
        (folder / "cat").rename(folder / "cow")
        message = message_of(folder_data(tmp_path))
        assert "same classes" in message and ("cat" in message or "cow" in message)

    def test_a_class_of_one_image_cannot_be_split(self, tmp_path):
        make_folder(tmp_path, per_class=1)
        assert "data.val_fraction is 0.5" in message_of(folder_data(tmp_path))


def save(array: np.ndarray, file: Path) -> None:
    """Write an image file: NumPy's by its ending, colours of 16 bits as PNG, the rest with Pillow."""
    if file.suffix in (".npy", ".npz"):
        (np.save if file.suffix == ".npy" else np.savez)(file, array)
    elif array.dtype == np.uint16 and array.ndim == 3:  # Pillow writes none
        height, width, channels = array.shape
        lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)
        header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
        blocks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
        chunks = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in blocks)
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    else:
        Image.fromarray(array).save(file)


def fill_folder(root: Path, name: str, shape: tuple[int, ...], dtype: str, per_class: int = 4) -> Path:
    """Noise of a shape and type in files with the ending of a name."""
    noise = np.random.default_rng(0)
    for folder in (root / part / kind for part in ("train", "test") for kind in ("cat", "dog")):
        folder.mkdir(parents=True)
        for index in range(per_class):
            values = noise.normal(40, 20, shape) if dtype.startswith("f") else noise.integers(0, 200, shape)
            save(values.astype(dtype), folder / f"{index}{name}")
    return root


class TestKindsOfImages:
    @pytest.mark.parametrize("ending", (".npy", ".npz"))
    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), dtype=st.sampled_from(["u1", "u2", ">u2", "i2", "i4", "u8", "f2", "f4", ">f4", "f8", "?"]))
    def test_an_array_is_loaded_as_it_was_written(self, tmp_path_factory, ending, data, dtype):
        shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=3, max_side=6))
        numbers = {"elements": st.floats(-1e4, 1e4, width=16)} if "f" in dtype else {}
        written = data.draw(arrays.arrays(dtype, shape, **numbers))
        file = tmp_path_factory.mktemp("arrays") / f"x{ending}"
        save(written, file)
        image = read_image(str(file))
        assert image.dtype == (torch.uint8 if dtype == "u1" else torch.float32)
        largest = np.iinfo(written.dtype).max if written.dtype.kind in "iu" and dtype != "u1" else 1
        right = (written.reshape(*shape[:2], -1) / largest).transpose(2, 0, 1)
        np.testing.assert_array_equal(image.numpy(), right.astype(np.float32))

    @pytest.mark.parametrize(
        ("dtype", "channels", "ending"),
        [
            *[("u1", channels, ending) for channels in (3, 4) for ending in (".png", ".tif", ".webp")],
            *[("u2", channels, ".png") for channels in (3, 4)],
            *[("u2", 0, ending) for ending in (".png", ".tif", ".pgm")],
            ("i4", 0, ".tif"),
            ("f4", 0, ".tif"),
        ],
    )
    def test_a_picture_is_loaded_as_it_was_written(self, tmp_path, dtype, channels, ending):
        noise = np.random.default_rng(0).uniform(0, 1, (7, 5, channels) if channels else (7, 5))
        largest = 1 if dtype == "f4" else np.iinfo(dtype).max
        written = (noise * largest).astype(dtype)
        if ending == ".webp":
            Image.fromarray(written).save(tmp_path / "x.webp", lossless=True, exact=True)
        else:
            save(written, tmp_path / f"x{ending}")
        image = read_image(str(tmp_path / f"x{ending}")).numpy()
        right = written.reshape(7, 5, -1).transpose(2, 0, 1)
        np.testing.assert_array_equal(image, right if dtype == "u1" else (right / largest).astype(np.float32))

    @pytest.mark.parametrize("dtype", ("u1", "u2"))
    def test_grey_with_transparency_has_the_grey_three_times(self, tmp_path, dtype):
        written = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (6, 6, 2), dtype=dtype)
        save(written, tmp_path / "x.png")
        image = read_image(str(tmp_path / "x.png"))
        right = torch.from_numpy(written[:, :, [0, 0, 0, 1]].astype(np.float32)).permute(2, 0, 1)
        assert torch.equal(image, right.byte() if dtype == "u1" else right / np.float32(65535))

    def test_transparency_of_palettes_and_of_one_colour_is_a_channel(self, tmp_path):
        colours = np.zeros((4, 4, 3), np.uint8)
        colours[0, 0] = 1, 2, 3
        Image.fromarray(colours).save(tmp_path / "colour.png", transparency=(1, 2, 3))
        Image.fromarray(colours).quantize(2).save(tmp_path / "palette.png", transparency=0)
        for name in ("colour", "palette"):
            image = read_image(str(tmp_path / f"{name}.png"))
            assert image.shape == (4, 4, 4) and len(image[3].unique()) == 2

    def test_colours_of_16_bits_that_pillow_would_cut_are_refused(self, tmp_path):
        (tmp_path / "x.ppm").write_bytes(b"P6 1 1 65535 " + bytes(6))
        with pytest.raises(InputError, match=r"x\.ppm.*colours of 16 bits"):
            read_image(str(tmp_path / "x.ppm"))
        (tmp_path / "x.ppm").write_bytes(b"P6 1 1 255 " + bytes(3))
        assert read_image(str(tmp_path / "x.ppm")).tolist() == [[[0]]] * 3

    def test_grey_pictures_of_8_bits_have_three_equal_channels(self, tmp_path):
        data = folder_data(fill_folder(tmp_path, ".png", (8, 8), "u1"))
        images = images_of(data.test_dataloader()) * torch.tensor(data.std)[:, None, None]
        images += torch.tensor(data.mean)[:, None, None]
        assert images.shape == (8, 3, 8, 8) and torch.allclose(images[:, 0], images[:, 2], atol=1e-6)

    @pytest.mark.parametrize(
        ("ending", "shape", "dtype", "channels"),
        [
            (".png", (16, 16), "u2", 1),
            (".tif", (16, 16), "f4", 1),
            (".png", (16, 16, 4), "u1", 4),
            (".npy", (16, 16, 7), "f8", 7),
            (".npz", (16, 16, 2), "i2", 2),
        ],
    )
    def test_all_transforms_work_on_any_number_of_channels(self, tmp_path, ending, shape, dtype, channels):
        fill_folder(tmp_path, ending, shape, dtype)
        options = {"crop_padding": 2, "flip": True, "cutout": 3, "random_erasing": 0.5, "val_fraction": 0}
        for sizes in ({}, {"image_size": 12}, {"image_size": 12, "resized_crop": True}):
            data = folder_data(tmp_path, **sizes, **options)
            images = images_of(data.train_dataloader())
            assert images.shape == (8, channels, data.image_size, data.image_size)
            assert images.dtype == torch.float32 and images.isfinite().all() and data.image_channels == channels

    def test_channels_are_normalised_by_those_of_the_training_images(self, tmp_path):
        fill_folder(tmp_path, ".npy", (8, 8, 2), "f4")
        for file in (tmp_path / "train").rglob("*.npy"):
            np.save(file, np.load(file) * (1, 0))  # the second channel is constant
        for file in (tmp_path / "test").rglob("*.npy"):
            np.save(file, np.load(file) * 100)
        data = folder_data(tmp_path, val_fraction=0)
        images = images_of(data.train_dataloader())
        assert abs(images[:, 0].mean()) < 1e-5 and abs(images[:, 0].std() - 1) < 1e-2
        assert (images[:, 1] == 0).all() and data.std[1] == 1

    def test_arrays_are_read_by_threads_whenever_garbage_is_collected(self, tmp_path):
        """What a collection runs may let another thread parse a header, which CPython 3.11.7 does not bear."""
        np.save(tmp_path / "a.npy", np.zeros((8, 8, 3), "u1"))
        threshold = gc.get_threshold()

        def let_others_run(*_):
            time.sleep(1e-6)

        gc.callbacks.append(let_others_run)
        gc.set_threshold(20)
        try:
            with ThreadPoolExecutor(8) as pool:
                images = list(pool.map(read_image, [str(tmp_path / "a.npy")] * 1000))
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(let_others_run)
        assert len(images) == 1000

    def test_pictures_of_8_and_of_16_bits_can_be_mixed(self, tmp_path):
        fill_folder(tmp_path, ".npy", (8, 8, 3), "u1")
        for file in tmp_path.rglob("0.npy"):
            np.save(file, np.load(file).astype(np.uint16) * 257)
        data = folder_data(tmp_path, val_fraction=0)
        assert abs(images_of(data.train_dataloader()).mean()) < 1e-5

    def test_files_with_other_channels_are_named(self, tmp_path):
        odd = make_folder(tmp_path) / "train/cat/odd.png"
        Image.new("RGBA", (16, 16)).save(odd)
        message = message_of(folder_data(tmp_path))
        assert f"{str(odd)!r}" in message and "4" in message and "3" in message and "channels" in message

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({"x": np.zeros((8, 8)), "y": np.zeros((8, 8))}, "it should hold one array, not 2"),
            ({"x": np.array([{}, []], dtype=object)}, "allow_pickle=False"),
            ({"x": np.zeros((8, 8), complex)}, "complex128 of shape (8, 8)"),
            ({"x": np.zeros(8)}, "shape (8,)"),
            ({"x": np.full((8, 8), np.nan)}, "not all of its values are finite"),
        ],
    )
    def test_arrays_that_are_no_images_are_refused(self, tmp_path, content, words):
        fill_folder(tmp_path, ".npz", (8, 8), "f4")
        np.savez(tmp_path / "train/cat/0.npz", **content)
        message = message_of(folder_data(tmp_path))
        assert "train/cat/0.npz" in message and words in message

    def test_a_network_is_told_the_number_of_channels(self, tmp_path):
        cell = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
        Genotype(cells=(cell, cell), layout=(0, 1, 1), reductions=(1, 2), concat=(2,)).save(tmp_path / "g.json")
        root = fill_folder(tmp_path / "root", ".npy", (8, 8, 5), "u2")
        config = {
            "network": {"channels": 4},
            "data": {"dataset": "folder", "root": str(root), "val_fraction": 0, "batch_size": 4},
            "training": {"epochs": 1},
            "compute": {"accelerator": "cpu", "threads": 1},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        run = retrain(tmp_path / "g.json", tmp_path / "c.yaml", tmp_path / "run")
        assert evaluate(run)["images"] == 8
        assert json.loads((run / "network.json").read_text())["image_channels"] == 5


class TestBrokenImages:
    def test_an_image_cut_in_the_middle_is_found_within_seconds(self, tmp_path):
        broken = make_folder(tmp_path, per_class=200) / "test" / "dog" / "77.jpg"
        cut_in_the_middle(broken)
        start = time.monotonic()
        assert repr(str(broken)) in message_of(folder_data(tmp_path))
        assert time.monotonic() - start < 10

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
    def test_a_file_that_is_no_image_is_named(self, tmp_path, content):
        broken = make_folder(tmp_path) / "train" / "cat" / "1.jpg"
        broken.write_bytes(content)
        assert repr(str(broken)) in message_of(folder_data(tmp_path))

    def test_a_link_to_nowhere_is_named(self, tmp_path):
        link = make_folder(tmp_path) / "train" / "cat" / "link.jpg"
        link.symlink_to(tmp_path / "nowhere.jpg")
        assert repr(str(link)) in message_of(folder_data(tmp_path))

    def test_classes_may_be_links(self, tmp_path):
        folder = make_folder(tmp_path / "here") / "train" / "cat"
        folder.rename(tmp_path / "cat")
        folder.symlink_to(tmp_path / "cat")
        folder_data(tmp_path / "here").prepare()

    def test_once_the_time_is_up_files_are_still_opened(self, tmp_path):
        make_folder(tmp_path, size=(200, 200))
        cut_in_the_middle(tmp_path / "train" / "cat" / "1.jpg")
        files = [str(file) for file in sorted(tmp_path.rglob("*.jpg"))]
        check_images(files, seconds=0)
        (tmp_path / "train" / "cat" / "2.jpg").write_bytes(b"no image")
        with pytest.raises(InputError, match=r"2\.jpg"):
            check_images(files, seconds=0)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_image_that_breaks_during_training_is_named_in_one_line(self, tmp_path, workers):
        data = folder_data(
            make_folder(tmp_path), workers=workers, val_fraction=0, cache="auto" if workers == 0 else False
        )
        data.prepare()
        broken = tmp_path / "train" / "cat" / "1.jpg"
        cut_in_the_middle(broken)
        with pytest.raises(InputError) as caught:
            images_of(data.train_dataloader())
        assert str(caught.value).startswith(f"data.root: image file {str(broken)!r} cannot be used")
        assert "\n" not in str(caught.value)
