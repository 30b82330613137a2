"""Whether the parts of a search fit together: said in one line before anything is written or any long work begins."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.strategy import ENAS as NniENAS

from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs.tables import ALPHA_KEYS
from strategies.base import DifferentiableStrategy
from strategies.enas import ENAS
from strategies.relaxation import Plan, Step, softmax


def check_enas(strategy: OneShotStrategy, name: str) -> None:
    """Raise an InputError where NNI's ENAS could not run, or would find no reward in what a search logs."""
    if not isinstance(strategy, NniENAS):
        return
    if not isinstance(strategy, ENAS):
        raise InputError(f"strategy.name: {name} does not run on today's Lightning; write strategies.enas.ENAS")
    if strategy.reward_metric_name != "val_acc":
        got = repr(strategy.reward_metric_name)
        raise InputError(f"strategy.reward_metric_name: {got:.80} should be val_acc, the accuracy that a search logs")
    if find_spec("tianshou") is None:
        raise InputError("strategy.name: ENAS needs tianshou, which is not installed: pip install 'nas-plugins[rl]'")


def check_space(space: ModelSpace, data: ImageData) -> None:
    """One pass of two blank images: what does not fit together is said before any long work."""
    name = type(space).__name__
    shape = (data.image_channels, data.image_size, data.image_size)
    if not space.simplify():
        raise InputError(f"space.name: {name} has no choice to search")
    try:
        with torch.no_grad():
            output = space.eval()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, NotImplementedError) as error:
        size = "×".join(str(number) for number in shape)
        raise InputError(f"space: {name} does not fit images of {size}: {one_line(error)}") from None
    space.train()
    if not isinstance(output, torch.Tensor) or output.shape != (2, data.num_classes):
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InputError(
            f"space: {name} should give (2, {data.num_classes}) for 2 images of {data.num_classes} classes, not {got}"
        )


def check_plans(strategy: DifferentiableStrategy, supernet: ModelSpace, data: ImageData, pair: str) -> None:
    """Two blank images by all plans that a search can come to, each kind once."""
    architecture = strategy.architecture
    for edge, candidates in architecture.candidates.items():
        for name in {str(candidate) for candidate in candidates} & set(ALPHA_KEYS):
            raise InputError(f"space.name: {edge!r} has a candidate {name!r}, which alphas.csv has as another column")
    alphas = architecture.alphas
    images = torch.zeros(2, data.image_channels, data.image_size, data.image_size)

    def run(plan: Plan) -> None:
        architecture.plan = plan
        with torch.no_grad():
            supernet(images)

    first = {edge: (0,) for edge in alphas}
    try:
        strategy.composition.relaxation.architecture(alphas, Step())
        run(first)
        run({edge: (len(alpha) - 1,) for edge, alpha in alphas.items()})
        run(softmax(alphas))
    except (RuntimeError, ValueError, TypeError) as error:
        where = ""
        for edge in alphas:  # which one it is, is worth the time now
            try:
                run({**first, **softmax({edge: alphas[edge]})})
            except (RuntimeError, ValueError, TypeError):
                where = f" at {edge!r}"
                break
        raise InputError(f"strategy: {pair}{where}: {one_line(error)}") from None
