"""A network without one of its cells: what the marginal contributions of D-DARTS (Eq. 6) compare it with.

The layers before an absent cell compute what they always do. They are not run again: they answer
with the outputs of the pass with all cells.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.network import Network
from strategies.mixed_cell import MixedCell
from strategies.supernet import Architecture


class CellChain:
    """The searched cells of a supernet that is a chain of them.

    A cell is what has an architecture of its own. Where it stands in several layers, they are
    absent together.

    Args:
        model: a supernet with one :class:`~search_spaces.network.Network`, as our spaces have.

    Attributes:
        network: that network.
        layers: label of a cell -> the layers that it stands in, from the first on.
        edges: label of a cell -> its edges.

    Raises:
        ValueError: the model is no such chain.
    """

    def __init__(self, model: nn.Module) -> None:
        networks = [module for module in model.modules() if isinstance(module, Network)]
        found = [[m for m in layer.modules() if isinstance(m, MixedCell)] for net in networks for layer in net.cells]
        if len(networks) != 1 or any(len({cell.label for cell in cells}) != 1 for cells in found):
            raise ValueError(
                "w_abl: the ablation loss needs a chain of searched cells, as in DDartsSpace; "
                f"{type(model).__name__} is none, and can be searched with w_abl=0"
            )
        self.network = networks[0]
        self.layers: dict[str, list[int]] = {}
        self.edges: dict[str, list[str]] = {}
        for layer, cells in enumerate(found):
            # A layer may be built of several of NNI's cells, one for each node.
            self.layers.setdefault(cells[0].label, []).append(layer)
            self.edges[cells[0].label] = [edge for cell in cells for edge in cell.edges()]

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """A list that the pass made meanwhile fills: the two outputs of the stem, then that of each layer."""
        outputs: list[Tensor] = []
        hooks = [self.network.stem.register_forward_hook(lambda *call: outputs.extend(call[-1]))]
        hooks += [cell.register_forward_hook(lambda *call: outputs.append(call[-1])) for cell in self.network.cells]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()
        if len(outputs) != 2 + len(self.network.cells):
            raise ValueError("the ablation loss needs an evaluator that runs the network once on a batch")

    @contextmanager
    def without(
        self,
        label: str,
        outputs: Sequence[Tensor],
        architecture: Architecture,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Iterator[None]:
        """Meanwhile a cell is absent, and passes begin at its first layer.

        Args:
            label: of the cell.
            outputs: of the pass with all cells, see :meth:`recorded`.
            architecture: whose plan the cells follow.
            weights: edge -> weights of its operations, for the edges of the absent cell; without
                them the :func:`shortcut` stands for it.
        """
        cells = self.network.cells
        answers: dict[nn.Module, Callable[..., Any]] = {self.network.stem: partial(_answer, (outputs[0], outputs[1]))}
        answers |= {cells[layer]: partial(_answer, outputs[2 + layer]) for layer in range(self.layers[label][0])}
        if weights is None:
            answers |= {cells[layer]: partial(_skip, outputs[2 + layer].shape) for layer in self.layers[label]}
        plan = architecture.plan
        architecture.plan = {**plan, **(weights or {})}
        for module, answer in answers.items():
            module.forward = answer  # on the instance: its class keeps its own
        try:
            yield
        finally:
            architecture.plan = plan
            for module in answers:
                del module.forward


def _answer(output: Any, *inputs: Tensor) -> Any:
    return output


def _skip(shape: torch.Size, before: Tensor, previous: Tensor) -> Tensor:
    return shortcut(previous, shape)


def shortcut(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x itself where it has that shape, else a projection without weights.

    It takes every second pixel where the resolution is halved, and the channels of x in turn until
    there are enough.

    Args:
        x: (batch, channels, height, width).
        shape: that of the result.
    """
    if x.shape == tuple(shape):
        return x
    rows, columns = (-(-own // wanted) for own, wanted in zip(x.shape[2:], shape[2:], strict=True))
    channels = torch.arange(shape[1], device=x.device) % x.shape[1]
    return x[:, channels, ::rows, ::columns]


def random_weights(architecture: Architecture, edges: Iterable[str], seed: str) -> dict[str, Tensor]:
    """edge -> a weight for each of its candidates, uniform from 0 to 1, by the seed alone."""
    alphas = {edge: architecture.alphas[edge] for edge in edges}
    generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
    sizes = [len(alpha) for alpha in alphas.values()]
    drawn = torch.rand(sum(sizes), generator=generator).to(next(iter(alphas.values())))
    return dict(zip(alphas, drawn.split(sizes), strict=True))


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Meanwhile batch normalizations normalize by the batch, and do not count it in their statistics.

    To put the statistics back afterwards would not do: backward passes that are yet to come hold them.
    """
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
