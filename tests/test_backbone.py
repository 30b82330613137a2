"""A derived network as the backbone of a detector, and the example that trains RetinaNet and Mask R-CNN with it."""

import copy
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from forked import Command, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_genotype import valid_genotypes
from torchvision.models.detection import MaskRCNN, RetinaNet

from nas_plugins.backbone import Backbone, Stages, mask_rcnn, retinanet
from nas_plugins.errors import InputError
from nas_plugins.training.checkpoints import load_tensors
from nas_plugins.training.retrain import retrain
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.stems import IMAGE_STEMS, STEMS

SCRIPT = Path(__file__).parent.parent / "examples" / "d_darts" / "detection.py"
CELL = (("simple_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("simple_conv_1x1", 2, 3))
ONE_NODE = (("skip_connect", 0, 2),)
GENOTYPE = Genotype((CELL, ONE_NODE), (0, 1, 0, 0), (1, 3), (2, 3), "dartopti")


def network(genotype: Genotype = GENOTYPE, **arguments) -> Network:
    return Network.from_genotype(genotype, channels=arguments.pop("channels", 4), **arguments)


def layer_outputs(net: Network, images: torch.Tensor) -> list[torch.Tensor]:
    """What every layer of the network itself gives out."""
    outputs: list[torch.Tensor] = []
    hooks = [cell.register_forward_hook(lambda _cell, _inputs, out: outputs.append(out)) for cell in net.cells]
    net(images)
    for hook in hooks:
        hook.remove()
    return outputs


def objects(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """One object, with its mask."""
    masks = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
    masks[0, 16:48, 8:40] = 1
    return {"boxes": torch.tensor([[8.0, 16, 40, 48]]), "labels": torch.tensor([1]), "masks": masks}


# Stages and levels


def test_a_stage_ends_before_each_reduction_and_with_the_last_layer():
    stages = Stages(network()).stages
    assert [list(stage.layers) for stage in stages] == [[0], [1, 2], [3]]
    assert [stage.channels for stage in stages] == [2 * 4, 2 * 8, 2 * 16]
    assert [stage.stride for stage in stages] == [1, 2, 4]


def test_the_channels_of_a_stage_are_those_of_its_last_cell_whatever_its_nodes():
    stages = Stages(network(Genotype((CELL, ONE_NODE), (0, 0, 1), (1,), (2, 3), "dartopti"))).stages
    assert [stage.channels for stage in stages] == [2 * 4, 1 * 8]


@given(valid_genotypes(max_layers=4), st.sampled_from(IMAGE_STEMS), st.integers(33, 70), st.integers(33, 70))
@settings(max_examples=30, deadline=None)
def test_the_features_of_any_network_are_the_outputs_of_its_layers_bit_for_bit(genotype, stem, height, width):
    net = network(genotype, stem=stem, channels=2).eval()
    images = torch.randn(2, 3, height, width)
    outputs = layer_outputs(net, images)
    body = Stages(net)
    features = body(images)
    ends = [layer - 1 for layer in sorted(genotype.reductions) if layer > 0] + [len(outputs) - 1]
    assert [stage.layers[-1] for stage in body.stages] == ends
    for stage, feature in zip(body.stages, features, strict=True):
        assert torch.equal(feature, outputs[stage.layers[-1]])
        assert feature.shape[1:] == (stage.channels, -(-height // stage.stride), -(-width // stage.stride))


def test_a_network_of_series_is_refused():
    with pytest.raises(InputError, match="the network is one of series; a detector's backbone takes images"):
        Backbone(network(stem="series"))


@pytest.mark.parametrize("stem", IMAGE_STEMS)
@pytest.mark.parametrize("last_levels, more", [("pool", ["pool"]), ("p6p7", ["p6", "p7"])])
def test_the_levels_of_the_pyramid_are_the_stages_and_what_follows_them(stem, last_levels, more):
    backbone = Backbone(network(stem=stem), out_channels=6, last_levels=last_levels)
    stride = 2 ** STEMS[stem].halvings
    assert backbone.names == ["0", "1", "2", *more]
    assert backbone.strides == [stride * 2**level for level in range(len(backbone.names))]
    levels = backbone(torch.randn(1, 3, 128, 192))
    assert list(levels) == backbone.names
    for level, pixels in zip(levels.values(), backbone.strides, strict=True):
        assert level.shape == (1, 6, -(-128 // pixels), -(-192 // pixels))


def test_a_pyramid_may_stand_on_the_last_stages_alone():
    images = torch.randn(1, 3, 32, 32)
    backbone = Backbone(network(), out_channels=6, levels=2)
    assert backbone.strides == [2, 4, 8]
    assert [level.shape[-1] for level in backbone(images).values()] == [16, 8, 4]


def test_a_network_without_reductions_has_one_stage():
    backbone = Backbone(network(Genotype((ONE_NODE,), (0, 0), (), (2,))), out_channels=6)
    assert [(stage.channels, stage.stride) for stage in backbone.body.stages] == [(4, 1)]


# What a detector pays for


def test_neither_classifier_nor_auxiliary_head_is_in_it():
    net = network(auxiliary=True)
    backbone = Backbone(net)
    of_network = {name for name, _ in net.named_parameters() if name.startswith(("stem.", "cells."))}
    assert {name for name, _ in backbone.body.named_parameters()} == of_network


def test_every_parameter_gets_a_gradient():
    genotype = Genotype((CELL,), (0, 0, 0, 0), (1, 3), (2, 3), "dartopti")  # uses both inputs of every cell
    backbone = Backbone(network(genotype), out_channels=6, last_levels="p6p7")
    sum(level.square().sum() for level in backbone(torch.randn(2, 3, 32, 32)).values()).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_drop_path_is_off():
    net = network()
    net.set_drop_path(0.9)
    Backbone(net)
    assert {cell.drop_path for cell in net.cells} == {0.0}


# Freezing


@pytest.mark.parametrize("trained", range(5))
def test_frozen_stages_do_not_change_in_a_step_and_the_others_do(trained):
    backbone = Backbone(network(), out_channels=6, trainable_stages=trained)
    before = copy.deepcopy(backbone.body.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    backbone.eval()
    backbone.train()  # as a validation between two epochs does
    sum(level.square().sum() for level in backbone(torch.randn(2, 3, 32, 32)).values()).backward()
    optimizer.step()
    parts = ["stem.", ("cells.0.",), ("cells.1.", "cells.2."), "cells.3."]
    changed = {name for name, value in backbone.body.state_dict().items() if not torch.equal(value, before[name])}
    expected = [any(name.startswith(part) for name in changed) for part in parts]
    assert expected == [part >= 4 - trained for part in range(4)]


def test_frozen_normalization_stays_what_it_is_while_the_rest_is_trained():
    genotype = Genotype((CELL,), (0, 0, 0, 0), (1, 3), (2, 3), "dartopti")
    backbone = Backbone(network(genotype), out_channels=6, frozen_norm=True)
    norms = {name for name, module in backbone.body.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    before = copy.deepcopy(backbone.body.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(level.square().sum() for level in backbone(torch.randn(2, 3, 32, 32)).values()).backward()
    optimizer.step()
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, before[name]) == (name.rpartition(".")[0] in norms), name


# Detectors


@pytest.mark.parametrize("make", [retinanet, mask_rcnn])
@pytest.mark.parametrize("stem", ["imagenet", "dual_tiny_imagenet"])
def test_a_detector_learns_and_predicts(make, stem):
    few = {"box_batch_size_per_image": 16, "box_detections_per_img": 5} if make is mask_rcnn else {}
    backbone = Backbone(network(stem=stem, channels=8), out_channels=16, levels=2)
    detector = make(backbone, 3, smallest_anchor=16, min_size=64, max_size=96, **few)
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 64)]
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = sum(detector(images, [objects(image) for image in images]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    found = detector.eval()(images)
    assert len(found) == 2 and {"boxes", "labels", "scores"} <= set(found[0])
    if make is mask_rcnn:
        assert found[0]["masks"].shape[1:] == (1, 64, 80)


@pytest.mark.parametrize(
    "make, reductions, last_levels",
    [(RetinaNet, (1, 3), "p6p7"), (RetinaNet, (1, 2, 3), "pool"), (MaskRCNN, (1, 2, 3), "pool")],
)
def test_it_can_be_given_to_the_classes_of_torchvision_with_their_own_anchors(make, reductions, last_levels):
    genotype = Genotype((ONE_NODE,), (0, 0, 0, 0), reductions, (2,))
    backbone = Backbone(network(genotype, stem="imagenet"), out_channels=16, last_levels=last_levels)
    image = torch.rand(3, 128, 128)
    few = {"box_batch_size_per_image": 8} if make is MaskRCNN else {}
    losses = make(backbone, num_classes=2, min_size=128, max_size=128, **few)([image], [objects(image)])
    assert all(loss.isfinite() for loss in losses.values())


def test_the_anchors_are_those_of_torchvision_for_its_own_levels():
    genotype = Genotype((ONE_NODE,), (0, 0, 0, 0), (1, 2, 3), (2,))
    backbone = Backbone(network(genotype, stem="imagenet"), out_channels=16)
    theirs, ours = RetinaNet(backbone, 2).anchor_generator, retinanet(backbone, 2).anchor_generator
    assert (ours.sizes, ours.aspect_ratios) == (theirs.sizes, theirs.aspect_ratios)
    theirs, ours = MaskRCNN(backbone, 2).rpn.anchor_generator, mask_rcnn(backbone, 2).rpn.anchor_generator
    assert (ours.sizes, ours.aspect_ratios) == (theirs.sizes, theirs.aspect_ratios)


# Where it comes from


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A retraining of the digits, deepened and with an auxiliary head."""
    folder = tmp_path_factory.mktemp("retrained")
    genotype = Genotype((CELL, ONE_NODE), (0, 1, 1), (1, 2), (2, 3), "dartopti")
    genotype.save(folder / "genotype.json")
    config = {
        "network": {"channels": 4, "layers": 5},
        "data": {"dataset": "digits", "train_images": 60, "test_images": 20},
        "training": {"epochs": 1},
        "compute": {"accelerator": "cpu", "threads": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return retrain(folder / "genotype.json", folder / "config.yaml", folder / "run")


def test_the_weights_of_a_retraining_are_those_of_the_backbone(run):
    weights = load_tensors(run / "weights.pt")
    body = Backbone.from_run(run).body.state_dict()
    assert len(body) == sum(name.startswith(("stem.", "cells.")) for name in weights)
    assert all(torch.equal(value, weights[name]) for name, value in body.items())


def test_the_features_of_a_retraining_are_those_of_its_network(run):
    genotype = Genotype.load(run / "genotype.json")
    net = Network.from_genotype(genotype if len(genotype.layout) == 5 else genotype.deepen(5), 10, 4, image_channels=1)
    net.load_state_dict(load_tensors(run / "weights.pt"))
    images = torch.randn(2, 1, 16, 16)
    outputs = layer_outputs(net.eval(), images)
    body = Backbone.from_run(run).eval().body
    for stage, feature in zip(body.stages, body(images), strict=True):
        assert torch.equal(feature, outputs[stage.layers[-1]])


def test_a_genotype_file_gives_the_network_of_that_genotype(tmp_path):
    GENOTYPE.save(tmp_path / "genotype.json")
    backbone = Backbone.from_genotype(tmp_path / "genotype.json", channels=4, stem="cifar")
    assert backbone.body.stages == Stages(network()).stages


# Errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"levels": 0}, "levels: 0 should be from 1 to 3"),
        ({"levels": 4}, "levels: 4 should be from 1 to 3: the network has 3 stages"),
        ({"trainable_stages": -1}, "trainable_stages: -1 should be from 0 to 4"),
        ({"trainable_stages": 5}, "trainable_stages: 5 should be from 0 to 4"),
        ({"last_levels": "p6"}, "last_levels: 'p6' should be one of pool, p6p7"),
        ({"stem": "resnet"}, "stem: 'resnet' should be one of cifar"),
        ({"channels": 0}, "channels: 0 should be at least"),
        ({"layers": 2}, "layers: 2 should be at least 3"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Backbone.from_genotype(GENOTYPE, **arguments)


def test_a_file_that_is_no_genotype_is_named(tmp_path):
    (tmp_path / "text").write_text("DARTS_V2 = Genotype()")
    with pytest.raises(InputError, match="text: not JSON"):
        Backbone.from_genotype(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="No such file.*none"):
        Backbone.from_genotype(tmp_path / "none")


def test_a_run_that_is_no_finished_retraining_is_named(run, tmp_path):
    with pytest.raises(InputError, match="none: is no run"):
        Backbone.from_run(tmp_path / "none")
    for name in ("config.yaml", "genotype.json", "network.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(InputError, match="not finished; a backbone is taken from"):
        Backbone.from_run(tmp_path)
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="weights.pt: not the weights of this run's network"):
        Backbone.from_run(tmp_path)
    (tmp_path / "config.yaml").write_text("space: {name: DartsSpace}\nstrategy: {name: EDAS}\n")
    with pytest.raises(InputError, match="a search; a backbone is taken from"):
        Backbone.from_run(tmp_path)


# The example


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The script as a module."""
    pytest.importorskip("pycocotools", reason="the extra detection")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("detection")


@pytest.fixture(scope="module")
def made_up(example, tmp_path_factory) -> dict[str, Path]:
    """Folders as COCO and Cityscapes have them."""
    folder = tmp_path_factory.mktemp("made_up")
    example.make_coco(folder / "coco", 0)
    example.make_cityscapes(folder / "cityscapes", 0)
    return {name: folder / name for name in ("coco", "cityscapes")}


def test_the_boxes_of_coco_are_read_as_corners_and_labels_from_one_on(example, made_up):
    source = example.Coco(made_up["coco"], "train")
    content = json.loads((made_up["coco"] / "annotations" / "instances_train2017.json").read_text())
    first = [one for one in content["annotations"] if one["image_id"] == 1]
    image, target = source[0]
    assert image.shape == (3, 128, 128) and source.classes == ["board", "disc"]
    assert target["labels"].tolist() == [{1: 1, 3: 2}[one["category_id"]] for one in first]
    x, y, width, height = first[0]["bbox"]
    assert target["boxes"][0].tolist() == [x, y, x + width, y + height]


def test_crowds_and_empty_images_of_coco_are_not_learned_from(example, made_up, tmp_path):
    file = Path("annotations", "instances_train2017.json")
    content = json.loads((made_up["coco"] / file).read_text())
    for one in content["annotations"]:
        one["iscrowd"] = int(one["image_id"] > 2)
    (tmp_path / "annotations").mkdir()
    (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / "train2017").symlink_to(made_up["coco"] / "train2017")
    assert example.Coco(tmp_path, "train").source.ids == [1, 2]


def test_the_instances_of_cityscapes_are_read_with_tight_boxes(example, tmp_path):
    folders = [tmp_path / name / part / "city" for name in ("leftImg8bit", "gtFine") for part in ("train", "val")]
    pixels = np.full((8, 12), 7, dtype=np.uint16)
    pixels[2:5, 3:7] = 26001  # a car
    pixels[6, 10] = 24000  # a person of one pixel
    pixels[:, 0] = 26  # a group of cars
    pixels[0, 5:7] = 29000  # a caravan, which is not evaluated
    for folder in folders:
        folder.mkdir(parents=True)
        if "gtFine" in str(folder):
            Image.fromarray(pixels).save(folder / "a_gtFine_instanceIds.png")
        else:
            Image.new("RGB", (12, 8)).save(folder / "a_leftImg8bit.png")
    kinds = example.Cityscapes.classes
    assert kinds == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    _, target = example.Cityscapes(tmp_path, "train")[0]
    assert target["boxes"].tolist() == [[10, 6, 11, 7], [3, 2, 7, 5]]
    assert [kinds[label - 1] for label in target["labels"]] == ["person", "car"]
    assert target["masks"].sum(dim=(1, 2)).tolist() == [1, 12]
    _, target = example.Cityscapes(tmp_path, "val")[0]
    assert target["iscrowd"].tolist() == [1, 0, 0]


def test_a_mirrored_image_has_mirrored_objects(example, made_up):
    source = example.Cityscapes(made_up["cityscapes"], "train")
    mirrored = importlib.import_module("detection_data").Augmented(source, mirror=True)
    image, target = source[0]
    seen = [mirrored[0] for _ in range(20)]
    assert {torch.allclose(moved, image / 255) for moved, _ in seen} == {True, False}
    for moved, found in seen:
        flipped = not torch.allclose(moved, image / 255)
        assert torch.equal(found["masks"], target["masks"].flip(-1) if flipped else target["masks"])
        left = 192 - target["boxes"][:, 2] if flipped else target["boxes"][:, 0]
        assert torch.equal(found["boxes"][:, 0], left)


def broken_coco(folder: Path, change) -> None:
    """COCO's val is fine, in train the content of the annotations is changed."""
    file = folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content["images"][0].update(file_name="no.jpg"), "image 1 has no file .*no.jpg"),
        (lambda content: content["annotations"][0].update(image_id=99), "annotation 1 has image_id 99, which is not"),
        (lambda content: content["annotations"][0].update(category_id=2), "annotation 1 has category_id 2, which is"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2]), "annotation 1 has the bbox \\[1, 2\\]"),
        (lambda content: content.pop("categories"), "no annotations as COCO has them"),
        (lambda content: content["images"][0].pop("id"), "no annotations as COCO has them"),
    ],
)
def test_annotations_that_cannot_be_used_are_named(example, tmp_path, change, message):
    example.make_coco(tmp_path, 0)
    broken_coco(tmp_path, change)
    with pytest.raises(InputError, match=message):
        example.Coco(tmp_path, "train")


@pytest.mark.parametrize(
    "model, missing",
    [
        ("retinanet", "train2017"),
        ("retinanet", "annotations/instances_val2017.json"),
        ("mask_rcnn", "leftImg8bit/train"),
        ("mask_rcnn", "gtFine/val"),
    ],
)
def test_a_part_of_a_dataset_that_is_missing_is_named_and_nothing_is_written(
    example, made_up, tmp_path, capsys, model, missing
):
    root = tmp_path / "data"
    name = "coco" if model == "retinanet" else "cityscapes"
    root.mkdir()
    for part in made_up[name].rglob("*"):
        relative = part.relative_to(made_up[name])
        if part.is_file() and not str(relative).startswith(missing):
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            (root / relative).symlink_to(part)
    arguments = ["--model", model, "--data.root", str(root), "--output", str(tmp_path / "out")]
    assert example.main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"it has no {missing}" in line
    assert not (tmp_path / "out").exists()


def test_an_image_of_cityscapes_without_instances_is_named(example, tmp_path):
    example.make_cityscapes(tmp_path, 0)
    next((tmp_path / "gtFine" / "train" / "madeup").iterdir()).unlink()
    with pytest.raises(InputError, match="_leftImg8bit.png has no file .*_gtFine_instanceIds.png"):
        example.Cityscapes(tmp_path, "train")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--backbone.run", "nothing"], "nothing: is no run"),
        (["--backbone.genotype", str(SCRIPT)], "not JSON"),
        (["--backbone.run", "a", "--backbone.genotype", "b"], "backbone.run: a should be null"),
        (["--backbone.trainable_stages", "2"], "random weights are not frozen"),
        (["--data.batch_size", "0"], "data.batch_size"),
        (["--data.size", "3"], "--data.size"),
        (["--config", "no.yaml"], "no.yaml"),
        (["--resume"], "has no config.yaml"),
    ],
)
def test_bad_arguments_of_the_example_end_with_one_line(example, tmp_path, capsys, arguments, message):
    assert example.main(["--output", str(tmp_path / "out"), *arguments]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("detection.py: ") and message in line
    assert not (tmp_path / "out").exists()


def test_a_backbone_that_knows_grey_images_alone_is_refused(example, run, tmp_path, capsys):
    assert example.main(["--output", str(tmp_path / "out"), "--backbone.run", str(run)]) == 2
    assert "was trained on grey images" in capsys.readouterr().err


@pytest.mark.parametrize("name, epochs, milestones", [("coco", 12, [8, 11]), ("cityscapes", 26, [16, 22])])
def test_the_configs_of_section_5_5_have_settings_that_exist(example, tmp_path, name, epochs, milestones):
    read, output = example.read, str(tmp_path / "out")
    made, _ = read(["--config", str(SCRIPT.parent / f"{name}.yaml"), "--output", output])
    assert (made.training.epochs, made.training.milestones) == (epochs, milestones)


@pytest.mark.slow
def test_the_example_goes_on_where_it_stopped(example, tmp_path, capsys):
    small = ["--compute.accelerator", "cpu", "--compute.threads", "1", "--training.warmup", "1000"]
    small += ["--data.min_size", "64", "--data.max_size", "96"]

    def script(*arguments: object) -> str:
        assert example.main([*small, *map(str, arguments)]) == 0
        return capsys.readouterr().out

    assert "bbox AP" in script("--output", tmp_path / "whole")
    script("--output", tmp_path / "cut", "--training.epochs", "1")
    resumed = ["--output", tmp_path / "cut", "--resume", "--training.epochs", "2"]
    ended = Command([SCRIPT, *small, *resumed], tmp_path, does=run_script).end()  # in another process
    assert ended.status == 0, ended.err
    whole, cut = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(whole, cut)
    assert whole["train_loss"].is_monotonic_decreasing
    (optimizer,) = load_tensors(tmp_path / "whole" / "checkpoints" / "last.ckpt")["optimizer_states"]
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(0.01)  # the warm-up has no more than an epoch


@pytest.mark.slow
def test_the_example_trains_mask_rcnn(example, tmp_path, capsys):
    arguments = ["--model", "mask_rcnn", "--training.epochs", "1", "--training.proposals", "16"]
    arguments += ["--data.min_size", "64", "--data.max_size", "96"]
    arguments += ["--compute.accelerator", "cpu", "--output", str(tmp_path / "out")]
    assert example.main(arguments) == 0
    assert "segm AP" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert {"bbox_map", "segm_map", "segm_map_small"} <= set(table) and table["train_loss"].gt(0).all()
