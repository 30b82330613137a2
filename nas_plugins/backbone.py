"""Derived networks as detector backbones: the features of every resolution, merged by a feature pyramid.

Detectors of torchvision accept any module with ``out_channels`` that returns feature maps by name. D-DARTS
(section 5.5) uses RetinaNet and Mask R-CNN.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from nas_plugins.config.schema import NetworkConfig
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike
from nas_plugins.runs.directory import WEIGHTS, is_finished, read_config
from nas_plugins.runs.reader import read_run
from nas_plugins.training.checkpoints import load_tensors, load_weights
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.stems import Stem

LastLevels = Literal["pool", "p6p7"]
"""Extra FPN levels: ``"pool"`` (stride-2 max pooling) or ``"p6p7"`` (two stride-2 convolutions)."""
_EXTRA_NAMES: dict[LastLevels, list[str]] = {"pool": ["pool"], "p6p7": ["p6", "p7"]}
_SIDE = 2**16
"""Side in pixels of the image for shape inference, large enough for any number of reductions in practice."""


class Stage(NamedTuple):
    """Consecutive layers with the same output resolution.

    Args:
        layers: Indices of the layers.
        channels: Output channels of the last layer.
        stride: Ratio of image side to output side.
    """

    layers: range
    channels: int
    stride: int


class Stages(nn.Module):
    """Stem and cells of a derived network, which return the features of each resolution.

    Args:
        network: Network whose stem and cells are used, not copied; its drop-path is disabled.

    Attributes:
        image_channels: Channels of the images: 1 for grey, 3 for colour.
        stages: The stages, finest resolution first.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        network.set_drop_path(0.0)
        self.stem, self.cells = network.stem, network.cells
        first = next(module for module in self.stem.modules() if isinstance(module, nn.Conv2d))
        self.image_channels = first.in_channels
        self.stages = self._measure()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of each stage.

        Args:
            images: Images of shape (batch, image channels, height, width).

        Returns:
            A tensor of shape (batch, channels, height / stride, width / stride), rounded up, per stage.
        """
        return self._outputs(images, [stage.layers[-1] for stage in self.stages])

    def _outputs(self, images: Tensor, layers: Collection[int]) -> list[Tensor]:
        outputs = []
        before, previous = self.stem(images)
        for layer, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous)
            if layer in layers:
                outputs.append(previous)
        return outputs

    def _measure(self) -> list[Stage]:
        """Return the stages, found by a forward pass on the meta device."""
        shadow = copy.deepcopy(self).to("meta").eval()
        with torch.no_grad():
            image = torch.empty(1, self.image_channels, _SIDE, _SIDE, device="meta")
            shapes = [output.shape for output in shadow._outputs(image, range(len(self.cells)))]
        sides = [shape[-1] for shape in shapes]
        starts = [layer for layer, side in enumerate(sides) if layer == 0 or side < sides[layer - 1]]
        return [
            Stage(range(start, end), shapes[end - 1][1], _SIDE // sides[start])
            for start, end in zip(starts, [*starts[1:], len(sides)], strict=True)
        ]


class Backbone(nn.Module):
    """Detector backbone: a derived network with a feature pyramid (Lin et al., 2017).

    The output of the last layer of each stage is the input of one level of the pyramid. Frozen batch normalization
    uses its running statistics in training mode too.

    Args:
        network: Network whose stem and cells are used, including weights, not copied; its drop-path is disabled.
        out_channels: Channels of every level.
        levels: Number of stages, counted from the last, that the pyramid uses; None for all.
        last_levels: Extra levels, see :data:`LastLevels`: usually ``"pool"`` for Mask R-CNN, ``"p6p7"`` for RetinaNet.
        trainable_stages: Number of stages, counted from the last, that are trained; the others are frozen. The number
            of stages plus one also trains the stem. None trains everything.
        frozen_norm: Also freeze the batch normalization of the trained stages, as is usual for pretrained weights and
            small batches of large images.

    Attributes:
        body: The :class:`Stages`.
        fpn: The feature pyramid.
        out_channels: Channels of every level.
        names: Names of the levels, finest first: "0", "1" and so on, then "pool", or "p6" and "p7".
        strides: Ratio of image side to feature map side for each level.

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        network: Network,
        out_channels: int = 256,
        levels: int | None = None,
        last_levels: LastLevels = "pool",
        trainable_stages: int | None = None,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        if network.dimensions != 2:
            raise InputError("the network is one of series; a detector's backbone takes images")
        self.body = Stages(network)
        count = len(self.body.stages)
        levels = count if levels is None else levels
        trained = count + 1 if trainable_stages is None else trainable_stages
        # Without this check, slicing would accept numbers out of range and select other stages.
        for name, value, least, most in (("levels", levels, 1, count), ("trainable_stages", trained, 0, count + 1)):
            if not least <= value <= most:
                raise InputError(f"{name}: {value} should be from {least} to {most}: the network has {count} stages")
        if last_levels not in _EXTRA_NAMES:
            raise InputError(f"last_levels: {last_levels!r} should be one of {', '.join(_EXTRA_NAMES)}")
        stages = self.body.stages[-levels:]
        extra = LastLevelMaxPool() if last_levels == "pool" else LastLevelP6P7(out_channels, out_channels)
        self.out_channels = out_channels
        self.names = [*map(str, range(levels)), *_EXTRA_NAMES[last_levels]]
        self.strides = [stages[0].stride * 2**level for level in range(len(self.names))]
        self.fpn = FeaturePyramidNetwork([stage.channels for stage in stages], out_channels, extra)
        self._frozen_norms = self._freeze(count + 1 - trained, frozen_norm)
        self.train()

    @classmethod
    def from_genotype(
        cls,
        genotype: Genotype | PathLike,
        channels: int = 48,
        layers: int | None = None,
        stem: Stem = "imagenet",
        image_channels: int = 3,
        **pyramid: Any,
    ) -> Backbone:
        """Return the backbone of a genotype, with random weights.

        Args:
            genotype: The genotype or its file.
            channels: Channels of a node before the first reduction.
            layers: Depth of the network; None for that of the genotype.
            stem: A name of :data:`~search_spaces.stems.STEMS`.
            image_channels: Channels of the images: 1 for grey, 3 for colour.
            pyramid: Further arguments of :class:`Backbone`.

        Raises:
            InputError: The file is not a genotype, or an argument is out of range.
            OSError: The file cannot be read.
        """
        try:
            genotype = genotype if isinstance(genotype, Genotype) else Genotype.load(genotype)
            genotype = genotype if layers is None else genotype.deepen(layers)
            network = Network.from_genotype(genotype, 2, channels, image_channels, stem)
        except ValueError as error:
            raise InputError(str(error)) from None
        return cls(network, **pyramid)

    @classmethod
    def from_run(cls, run: PathLike, **pyramid: Any) -> Backbone:
        """Return the backbone of a retrained network, with its weights.

        Args:
            run: The run directory of a finished retraining.
            pyramid: Further arguments of :class:`Backbone`.

        Raises:
            InputError: The directory is not a finished retraining, a file in it is damaged, or an argument is out of
                range.
        """
        run = Path(run)
        saved = read_run(run)
        derived = read_config(run)[0].derived
        if not isinstance(derived, NetworkConfig) or saved.genotype is None or not is_finished(run, saved.kind):
            what = "a search" if derived is None else "of a space without cells" if saved.sample else "not finished"
            raise InputError(f"{run}: {what}; a backbone is taken from the run directory of a finished retraining")
        image_channels = saved.network.get("image_channels", 3)
        backbone = cls.from_genotype(
            saved.genotype, derived.channels, derived.layers, derived.stem, image_channels, **pyramid
        )
        file = run / WEIGHTS
        weights = {name: value for name, value in load_tensors(file).items() if name.startswith(("stem.", "cells."))}
        load_weights(backbone.body, file, weights)
        return backbone

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the features of each level.

        Args:
            images: Images of shape (batch, image channels, height, width).

        Returns:
            A tensor of shape (batch, out_channels, height / stride, width / stride), rounded up, by name of the level.
        """
        features = self.body(images)[-len(self.fpn.inner_blocks) :]
        return self.fpn(OrderedDict(zip(self.names, features, strict=False)))

    def train(self, mode: bool = True) -> Backbone:
        """Set training or evaluation mode; frozen batch normalization stays in evaluation mode."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def _freeze(self, parts: int, every_norm: bool) -> list[nn.BatchNorm2d]:
        """Freeze the first ``parts`` of stem and stages, and return the batch normalization that is frozen."""
        stages = [self.body.cells[stage.layers.start : stage.layers.stop] for stage in self.body.stages]
        frozen = nn.ModuleList([self.body.stem, *stages][:parts])
        of = self.body if every_norm else frozen
        norms = [module for module in of.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in (frozen, *norms):
            module.requires_grad_(False)
        return norms


def retinanet(backbone: Backbone, num_classes: int, smallest_anchor: int = 32, **settings: Any) -> RetinaNet:
    """Return torchvision's RetinaNet (Lin et al., 2017) with anchors for the levels of a backbone.

    Args:
        backbone: The backbone, usually with ``last_levels="p6p7"``.
        num_classes: Number of classes of objects, plus one for the background (label 0).
        smallest_anchor: Side in pixels of the smallest anchor of the finest level. Each level has three sizes within
            an octave, twice as large as those of the level before.
        settings: Further arguments of torchvision's class, which take precedence.
    """
    octave = [2 ** (third / 3) for third in range(3)]
    sizes = [tuple(int(smallest_anchor * 2**level * step) for step in octave) for level in range(len(backbone.names))]
    return RetinaNet(backbone, num_classes, **{**_anchors_and_padding(backbone, sizes, "anchor_generator"), **settings})


def mask_rcnn(backbone: Backbone, num_classes: int, smallest_anchor: int = 32, **settings: Any) -> MaskRCNN:
    """Return torchvision's Mask R-CNN (He et al., 2017) with anchors and pooling for the levels of a backbone.

    Args:
        backbone: The backbone, usually with ``last_levels="pool"``.
        num_classes: Number of classes of objects, plus one for the background (label 0).
        smallest_anchor: Side in pixels of the anchor of the finest level; each level has twice that of the one before.
        settings: Further arguments of torchvision's class, which take precedence.
    """
    sizes = [(smallest_anchor * 2**level,) for level in range(len(backbone.names))]
    levels = [name for name in backbone.names if name.isdigit()]
    pools = {
        f"{head}_roi_pool": MultiScaleRoIAlign(levels, output_size, sampling_ratio=2)
        for head, output_size in (("box", 7), ("mask", 14))
    }
    return MaskRCNN(
        backbone, num_classes, **{**_anchors_and_padding(backbone, sizes, "rpn_anchor_generator"), **pools, **settings}
    )


def _anchors_and_padding(backbone: Backbone, sizes: Sequence[tuple[int, ...]], anchors: str) -> dict[str, Any]:
    """Return anchors of the given sizes per level, and padding of images to a multiple of the largest stride."""
    return {
        anchors: AnchorGenerator(tuple(sizes), ((0.5, 1.0, 2.0),) * len(sizes)),
        "size_divisible": max(32, backbone.body.stages[-1].stride),
    }
