"""A derived network as the backbone of a detector: its features at every resolution, through a feature pyramid.

A detector of torchvision takes as its backbone any module that has ``out_channels`` and returns feature
maps by name. D-DARTS (section 5.5) does this with RetinaNet and Mask R-CNN.
"""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs import directory as runs
from nas_plugins.runs.reader import read_run
from nas_plugins.training.checkpoints import load_tensors
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.stems import Stem

PathLike = str | os.PathLike[str]
LastLevels = Literal["pool", "p6p7"]
"""How a pyramid goes on behind the last stage: by one level, its every second feature, or by two, convolutions."""
_SIDE = 2**16
"""Pixels a side of an image on paper: more than a stem and reductions, which double the channels, can use up."""


class Stage(NamedTuple):
    """The layers of one resolution.

    Args:
        layers: their numbers.
        channels: of the output of the last of them.
        stride: pixels of the image, in each direction, for one of that output.
    """

    layers: range
    channels: int
    stride: int


class Stages(nn.Module):
    """Stem and cells of a derived network, without classifier and auxiliary head: the features of each resolution.

    Args:
        network: gives stem and cells away: weights are shared, and drop-path is switched off.

    Attributes:
        image_channels: of the images that the network is for: 1 for grey ones, 3 for colour.
        stages: the finest resolution first.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        network.set_drop_path(0.0)
        self.stem, self.cells = network.stem, network.cells
        first = next(module for module in self.stem.modules() if isinstance(module, nn.Conv2d))
        self.image_channels = first.in_channels
        self.stages = self._measure()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(batch, image channels, height, width) -> for each stage (batch, channels, height / stride, width / stride).

        Where a stride does not divide a side the quotient is rounded up.
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
        """One pass on tensors without memory shows where a resolution ends, and how many channels arrive there."""
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
    """A derived network as a feature pyramid (Lin et al., 2017): the backbone of a detector.

    Each stage, the layers of one resolution, gives the output of its last layer to a level of the
    pyramid. In :meth:`train` mode too, batch normalization that is frozen uses its running statistics.

    Args:
        network: gives its stem and cells away, weights included; its drop-path is switched off.
        out_channels: channels of every level, 1 or more.
        levels: how many stages, counted from the last, the pyramid is built on; None for all.
        last_levels: what follows them: "pool" or "p6p7", see :data:`LastLevels`. Mask R-CNN is usual
            with the first, RetinaNet with the second.
        trainable_stages: how many stages, counted from the last, are trained; the rest never changes.
            One more than there are trains the stem too. None trains everything.
        frozen_norm: freeze the batch normalization of the trained stages too, as is usual where a
            batch of large images is small and the weights were trained before.

    Attributes:
        body: the :class:`Stages`.
        fpn: the pyramid.
        out_channels: of every level.
        names: of the levels, the finest first: "0", "1", …, and "pool", or "p6" and "p7".
        strides: pixels of the image, in each direction, for one feature of each level.

    Raises:
        InputError: an argument is of another type, or out of range.
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
        self.body = Stages(network)
        count = len(self.body.stages)
        levels = count if levels is None else levels
        trained = count + 1 if trainable_stages is None else trainable_stages
        for name, value, least, most in (
            ("out_channels", out_channels, 1, None),
            ("levels", levels, 1, count),
            ("trainable_stages", trained, 0, count + 1),
        ):
            if not isinstance(value, int) or value < least or (most is not None and value > most):
                right = f"from {least} to {most}: the network has {count} stages" if most else f"of at least {least}"
                raise InputError(f"{name}: {value!r} should be a whole number {right}")
        if last_levels not in get_args(LastLevels):
            raise InputError(f"last_levels: {last_levels!r} should be one of {', '.join(get_args(LastLevels))}")
        stages = self.body.stages[-levels:]
        pool = last_levels == "pool"
        self.out_channels = out_channels
        self.names = [*map(str, range(levels)), *(["pool"] if pool else ["p6", "p7"])]
        self.strides = [stages[0].stride * 2**level for level in range(len(self.names))]
        self.fpn = FeaturePyramidNetwork(
            [stage.channels for stage in stages],
            out_channels,
            LastLevelMaxPool() if pool else LastLevelP6P7(out_channels, out_channels),
        )
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
        """The backbone of a genotype, with random weights.

        Args:
            genotype: it, or its file.
            channels: of a node before the first reduction.
            layers: depth of the network; None for the genotype's own.
            stem: a name of :data:`~search_spaces.network.STEMS`.
            image_channels: 1 for grey images, 3 for colour.
            pyramid: the other arguments of :class:`Backbone`.

        Raises:
            InputError: the file is no genotype, or an argument is out of range.
        """
        try:
            if not isinstance(genotype, Genotype):
                genotype = Genotype.load(genotype)
            genotype = genotype if layers is None else genotype.deepen(layers)
            network = Network.from_genotype(genotype, 2, channels, image_channels, stem)
        except OSError as error:
            raise InputError(f"{genotype}: cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, RuntimeError) as error:  # also: no memory for it
            raise InputError(one_line(error)) from None
        return cls(network, **pyramid)

    @classmethod
    def from_run(cls, run: PathLike, **pyramid: Any) -> Backbone:
        """The backbone of a retrained network, with its weights.

        Args:
            run: the run directory of a finished retraining.
            pyramid: the other arguments of :class:`Backbone`.

        Raises:
            InputError: it is none, a file in it is damaged, or an argument is out of range.
        """
        run = Path(run)
        saved = read_run(run)
        settings, _ = runs.read_config(run)
        weights_file = run / runs.WEIGHTS
        if settings.derived is None or saved.genotype is None or not weights_file.exists():
            what = "not finished" if settings.derived else "a search"
            raise InputError(f"{run}: {what}; a backbone is taken from the run directory of a finished retraining")
        weights = {
            name: value for name, value in load_tensors(weights_file).items() if name.startswith(("stem.", "cells."))
        }
        derived = settings.derived
        image_channels = saved.network.get("image_channels", 3)
        backbone = cls.from_genotype(
            saved.genotype, derived.channels, derived.layers, derived.stem, image_channels, **pyramid
        )
        try:
            backbone.body.load_state_dict(weights)
        except (RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise InputError(f"{weights_file}: not the weights of this run's network: {reason}") from None
        return backbone

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(batch, image channels, height, width) -> name -> (batch, out_channels, height / stride, width / stride)."""
        features = self.body(images)[-len(self.fpn.inner_blocks) :]
        return self.fpn(OrderedDict(zip(self.names, features, strict=False)))

    def train(self, mode: bool = True) -> Backbone:
        """As of every module, but frozen batch normalization stays in evaluation."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def _freeze(self, parts: int, every_norm: bool) -> list[nn.BatchNorm2d]:
        """Freeze so many of stem and stages, from the image on; which batch normalization is frozen then."""
        stages = [self.body.cells[stage.layers.start : stage.layers.stop] for stage in self.body.stages]
        frozen = nn.ModuleList([self.body.stem, *stages][:parts])
        of = self.body if every_norm else frozen
        norms = [module for module in of.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in (frozen, *norms):
            module.requires_grad_(False)
        return norms


def retinanet(backbone: Backbone, num_classes: int, smallest_anchor: int = 32, **settings: Any) -> RetinaNet:
    """torchvision's RetinaNet (Lin et al., 2017) with anchors for the levels of a backbone.

    Args:
        backbone: usually with ``last_levels="p6p7"``.
        num_classes: classes of objects, and one for the background, label 0.
        smallest_anchor: pixels of the smallest anchor of the finest level; each level has three
            sizes within an octave, and those of the next level are twice as large.
        settings: further arguments of torchvision's class; they win.
    """
    octave = [2 ** (third / 3) for third in range(3)]
    sizes = [tuple(int(smallest_anchor * 2**level * step) for step in octave) for level in range(len(backbone.names))]
    return RetinaNet(backbone, num_classes, **{**_shared(backbone, sizes, "anchor_generator"), **settings})


def mask_rcnn(backbone: Backbone, num_classes: int, smallest_anchor: int = 32, **settings: Any) -> MaskRCNN:
    """torchvision's Mask R-CNN (He et al., 2017) with anchors and pooling for the levels of a backbone.

    Args:
        backbone: usually with ``last_levels="pool"``.
        num_classes: classes of objects, and one for the background, label 0.
        smallest_anchor: pixels of the anchor of the finest level; that of the next is twice as large.
        settings: further arguments of torchvision's class; they win.
    """
    sizes = [(smallest_anchor * 2**level,) for level in range(len(backbone.names))]
    levels = [name for name in backbone.names if name.isdigit()]
    pools = {
        f"{head}_roi_pool": MultiScaleRoIAlign(levels, output_size, sampling_ratio=2)
        for head, output_size in (("box", 7), ("mask", 14))
    }
    return MaskRCNN(backbone, num_classes, **{**_shared(backbone, sizes, "rpn_anchor_generator"), **pools, **settings})


def _shared(backbone: Backbone, sizes: Sequence[tuple[int, ...]], anchors: str) -> dict[str, Any]:
    """Anchors of these sizes a level, and images padded so that the stride of every stage divides them."""
    return {
        anchors: AnchorGenerator(tuple(sizes), ((0.5, 1.0, 2.0),) * len(sizes)),
        "size_divisible": max(32, backbone.body.stages[-1].stride),
    }
