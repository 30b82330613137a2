"""CompCars and MIO-TCD, on small trees laid out as the data sets are released."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from nas_plugins.data.module import ImageData
from nas_plugins.data.vehicles import load
from nas_plugins.errors import InputError
from nas_plugins.training.retrain import evaluate, retrain
from search_spaces.genotype import Genotype

MIOTCD = [
    "articulated_truck",
    "background",
    "bicycle",
    "bus",
    "car",
    "motorcycle",
    "non-motorized_vehicle",
    "pedestrian",
    "pickup_truck",
    "single_unit_truck",
    "work_van",
]
LISTS = {
    "compcars_web": "data/train_test_split/classification/{}.txt",
    "compcars_surveillance": "sv_data/{}_surveillance.txt",
}
IMAGES = {"compcars_web": "data/image", "compcars_surveillance": "sv_data/image"}
COMPCARS = sorted(LISTS)


def save_image(file: Path) -> None:
    """A picture of a colour and a size that depend on its name."""
    random = np.random.default_rng(list(str(file.name).encode()))
    file.parent.mkdir(parents=True, exist_ok=True)
    width, height, *colour = random.integers(20, 50, 5).tolist()
    Image.new("RGB", (width, height), tuple(colour)).save(file)


def make_compcars(root: Path, dataset: str, per_class: int = 4) -> Path:
    """Three classes with that many training and two test images each, and one image in no list."""
    classes = ["78/1/2014", "78/12/2011", "9/20/2009"] if dataset == "compcars_web" else ["1", "2", "10"]
    for part, count in (("train", per_class), ("test", 2)):
        lines = [f"{name}/{part}{index}.jpg" for name in classes for index in range(count)]
        file = root / LISTS[dataset].format(part)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
        for line in lines:
            save_image(root / IMAGES[dataset] / line)
    save_image(root / IMAGES[dataset] / classes[0] / "unlisted.jpg")
    return root


def make_miotcd(root: Path, per_class: int = 10) -> Path:
    for name in MIOTCD:
        for index in range(per_class):
            save_image(root / "train" / name / f"{name}{index}.jpg")
    save_image(root / "test" / "unlabelled.jpg")
    return root


def data_of(root: Path, dataset: str, **options) -> ImageData:
    options = {"image_size": 16, "batch_size": 4, **options}
    return ImageData(dataset=dataset, root=str(root), **options)


def message_of(data: ImageData) -> str:
    with pytest.raises(InputError) as caught:
        data.prepare()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestCompCars:
    @pytest.mark.parametrize(
        ("dataset", "classes"),
        [("compcars_web", ["9/20", "78/1", "78/12"]), ("compcars_surveillance", ["1", "2", "10"])],
    )
    def test_the_lists_part_the_images_and_the_folders_name_the_classes(self, tmp_path, dataset, classes):
        data = data_of(make_compcars(tmp_path, dataset), dataset, val_fraction=0)
        data.prepare()
        assert data.classes == classes and data.num_classes == 3
        assert data.lengths == {"train": 12, "val": 0, "test": 6}

    def test_the_years_of_a_model_are_one_class(self, tmp_path):
        make_compcars(tmp_path, "compcars_web")
        with (tmp_path / LISTS["compcars_web"].format("train")).open("a") as file:
            file.write("78/1/2008/old.jpg\r\n\n")
        save_image(tmp_path / "data/image/78/1/2008/old.jpg")
        data = data_of(tmp_path, "compcars_web")
        data.prepare()
        assert data.num_classes == 3 and data.lengths["train"] + data.lengths["val"] == 13

    @pytest.mark.parametrize("dataset", COMPCARS)
    def test_an_image_has_the_label_of_its_folder(self, tmp_path, dataset):
        make_compcars(tmp_path, dataset)
        folder = tmp_path / IMAGES[dataset] / {"compcars_web": "9/20/2009", "compcars_surveillance": "2"}[dataset]
        for file in folder.iterdir():
            Image.new("RGB", (30, 30), (255, 255, 255)).save(file)
        data = data_of(tmp_path, dataset, batch_size=6)
        images, labels = next(iter(data.test_dataloader()))
        white = images.flatten(1).min(dim=1).values > 1
        name = {"compcars_web": "9/20", "compcars_surveillance": "2"}[dataset]
        assert white.tolist() == [label == data.classes.index(name) for label in labels]

    @pytest.mark.parametrize("dataset", COMPCARS)
    @pytest.mark.parametrize(("val_fraction", "kept"), [(0.4, 4), (0.3, 3), (0.2, 2)])
    def test_the_splits_of_the_paper(self, tmp_path, dataset, val_fraction, kept):
        data = data_of(make_compcars(tmp_path, dataset, per_class=10), dataset, val_fraction=val_fraction)
        data.prepare()
        assert data.lengths == {"train": 30 - 3 * kept, "val": 3 * kept, "test": 6}

    def test_a_class_that_is_too_small_for_the_split_is_refused(self, tmp_path):
        data = data_of(make_compcars(tmp_path, "compcars_web"), "compcars_web", val_fraction=0.2)
        assert "data.val_fraction is 0.2" in message_of(data)

    @pytest.mark.parametrize("dataset", COMPCARS)
    def test_images_of_many_sizes_need_one(self, tmp_path, dataset):
        message = message_of(data_of(make_compcars(tmp_path, dataset), dataset, image_size=None))
        assert message.startswith("data.image_size is None: it should be set, for example to")

    @pytest.mark.parametrize("dataset", COMPCARS)
    def test_what_is_missing_is_named(self, tmp_path, dataset):
        for missing in (IMAGES[dataset], LISTS[dataset].format("train"), LISTS[dataset].format("test")):
            root = make_compcars(tmp_path / missing.replace("/", "-"), dataset)
            (root / missing).rename(root / "elsewhere")
            message = message_of(data_of(root, dataset))
            assert f"{root}/{missing}" in message and "No such file or directory" in message

    def test_a_line_that_is_no_such_path_is_named(self, tmp_path):
        make_compcars(tmp_path, "compcars_web")
        with (tmp_path / LISTS["compcars_web"].format("train")).open("a") as file:
            file.write("78/1/image.jpg")
        message = message_of(data_of(tmp_path, "compcars_web"))
        assert "data/image/78/1/image.jpg" in message and "No such file" in message

    def test_a_class_of_the_test_list_alone_is_named(self, tmp_path):
        make_compcars(tmp_path, "compcars_surveillance")
        with (tmp_path / "sv_data/test_surveillance.txt").open("a") as file:
            file.write("281/x.jpg\n")
        save_image(tmp_path / "sv_data/image/281/x.jpg")
        message = message_of(data_of(tmp_path, "compcars_surveillance"))
        assert "['281']" in message and "training list" in message

    def test_a_broken_image_is_named(self, tmp_path):
        broken = make_compcars(tmp_path, "compcars_web") / "data/image/78/1/2014/train0.jpg"
        broken.write_bytes(b"no image")
        assert repr(str(broken)) in message_of(data_of(tmp_path, "compcars_web"))


class TestMioTcd:
    def test_a_fifth_of_each_class_is_the_test(self, tmp_path):
        data = data_of(make_miotcd(tmp_path), "miotcd", val_fraction=0.35, batch_size=22)
        data.prepare()
        assert data.classes == MIOTCD
        assert data.lengths == {"train": 57, "val": 31, "test": 22}
        (_, labels), *_ = data.test_dataloader()
        assert (labels.bincount() == 2).all()

    def test_the_parts_share_no_image(self, tmp_path):
        train, test, _ = load("miotcd", make_miotcd(tmp_path))
        assert len(set(train.images)) == 88 and len(set(test.images)) == 22
        assert not set(train.images) & set(test.images)

    def test_the_test_images_are_the_same_for_every_seed(self, tmp_path):
        """Else a network would be tested on images that its search has seen."""
        make_miotcd(tmp_path)
        tested = []
        for seed in (1, 2):
            data = data_of(tmp_path, "miotcd", seed=seed)
            data.prepare()
            tested.append([image.tolist() for images, _ in data.test_dataloader() for image in images])
        assert tested[0] == tested[1]

    def test_images_of_many_sizes_need_one(self, tmp_path):
        assert "data.image_size is None" in message_of(data_of(make_miotcd(tmp_path), "miotcd", image_size=None))

    def test_a_missing_folder_is_named(self, tmp_path):
        message = message_of(data_of(tmp_path, "miotcd"))
        assert f"{tmp_path}/train" in message and "ROOT/train/CLASS/IMAGE" in message


@pytest.mark.parametrize(("dataset", "tested"), [("compcars_web", 6), ("miotcd", 22)])
def test_a_network_with_two_stems_is_trained_and_tested_on_them(tmp_path, dataset, tested):
    make = make_miotcd if dataset == "miotcd" else lambda root: make_compcars(root, dataset)
    cell = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
    Genotype(cells=(cell, cell), layout=(0, 1, 1), reductions=(1, 2), concat=(2,)).save(tmp_path / "g.json")
    config = {
        "network": {"channels": 4, "stem": "dual_tiny_imagenet"},
        "data": {"dataset": dataset, "root": str(make(tmp_path / "root")), "image_size": 16, "val_fraction": 0.3},
        "training": {"epochs": 1},
        "compute": {"accelerator": "cpu", "threads": 1},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert evaluate(retrain(tmp_path / "g.json", tmp_path / "c.yaml", tmp_path / "run"))["images"] == tested
