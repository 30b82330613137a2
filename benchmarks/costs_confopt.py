"""Compare the FLOPs term of automl/ConfigurableOptimizer with a cost of this project on the same small networks.

    python benchmarks/costs_confopt.py CHECKOUT OUTPUT

CHECKOUT is a clone of github.com/automl/ConfigurableOptimizer. It needs thop, reinmax, ConfigSpace and fvcore, which
this project does not install. The script writes into OUTPUT

    confopt_operations.csv   one row per candidate: the count of thop, and the multiply-adds
    confopt_gradient.csv     one row per term: its gradient and its counts, and their agreement with the derived
                             networks of a small space
    confopt_search.csv       one row per search on random images: the final α and the derived operation

thop has no rule for the convolution class of ConfigurableOptimizer, and does not count it. Rows with "convolutions
counted" are measured after such a rule has been added.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import torch
from costs_confopt_networks import (
    CLASSES,
    PIXELS,
    SMALL,
    TWO_KERNELS,
    Space,
    adapted,
    count_convolutions,
    expected_cost,
    their_supernet,
)
from costs_penalty import searched
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from nas_plugins import DARTS
from nas_plugins.training.trainer import quiet
from search_spaces.complexity import count_multiply_adds
from search_spaces.files import write_text_whole
from strategies.cost import Cost

UNUSED = ("wandb", "nasbench", "nasbench.api", "gdown", "skimage", "skimage.transform", "seaborn")
"""Packages that ConfigurableOptimizer imports but does not use here."""
EPOCHS, BATCHES, RATE = 5, 8, 1e-2
WEIGHTS = (0.0, 1.0, 10.0)
AS_IS, COUNTED = "as it is", "convolutions counted"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="clone of ConfigurableOptimizer")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    options = parser.parse_args(arguments)
    if not (options.checkout / "src" / "confopt").is_dir():
        parser.error(f"{options.checkout}: it should be a clone of ConfigurableOptimizer, with src/confopt")
    sys.path.insert(0, str(options.checkout / "src"))
    sys.modules.update({name: MagicMock() for name in UNUSED})
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tables = {"operations": operations(), "gradient": gradients(), "search": searches()}
    for name, rows in tables.items():
        write_text_whole(options.output / f"confopt_{name}.csv", pd.DataFrame(rows).to_csv(index=False))
        print(pd.DataFrame(rows).to_string(index=False))


# Counts of candidates


def operations() -> list[dict[str, Any]]:
    """Return a row for each candidate of the first edge of two spaces, on 4 channels and 8×8 pixels."""
    from confopt.searchspace import DARTSSearchSpace

    counts = {}
    for label, counted in ((AS_IS, False), (COUNTED, True)):
        count_convolutions(counted)
        spaces = {"NAS-Bench-201": their_supernet(SMALL)[0], "DARTS": DARTSSearchSpace(C=SMALL.channels, layers=3)}
        adapted(spaces["DARTS"])
        edges = {name: first_edge(space) for name, space in spaces.items()}
        counts[label] = [round(count) for edge in edges.values() for count in edge.flops]
    names = [(name, candidate) for name, space in spaces.items() for candidate in candidates_of(space)]
    images = torch.randn(1, SMALL.channels, PIXELS, PIXELS)
    true = [multiply_adds(module, images) for edge in edges.values() for module in edge.ops]
    return [
        {"space": name, "candidate": candidate, AS_IS: first, COUNTED: second, "multiply_adds": exact}
        for (name, candidate), first, second, exact in zip(names, *counts.values(), true, strict=True)
    ]


def candidates_of(space: Any) -> Sequence[str]:
    """Return the names of the candidates of a supernet."""
    return getattr(space.model, "op_names", None) or space.model.primitives


def first_edge(space: Any) -> Any:
    """Return the candidates of the first edge of a supernet that has been adapted."""
    from confopt.searchspace.common import OperationBlock

    return next(module for module in space.modules() if isinstance(module, OperationBlock))


def multiply_adds(module: nn.Module, images: Tensor) -> int:
    """Return the multiply-adds of a module, as PyTorch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops() // 2


# Gradients


def gradients() -> list[dict[str, Any]]:
    """Return a row for each term: its gradient and its counts, compared with those of all 125 derived networks."""
    space, _ = their_supernet(SMALL)
    networks = list(derived_counts(space))
    alpha = torch.randn(3, len(SMALL.names), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha.requires_grad_()

    def true(alpha: Tensor) -> Tensor:
        chances = alpha.softmax(-1)
        return sum(float(count) * chances[range(3), picks].prod() for picks, count in networks)

    rows = [{"term": "log of the mean over all networks", **beside(lambda a: true(a).log(), alpha, true)}]
    for label, counted in ((AS_IS, False), (COUNTED, True)):
        count_convolutions(counted)
        space, _ = their_supernet(SMALL)
        cells = space.model.get_cells(None)
        counts = [float(sum(cell.get_weighted_flops(one_hot(picks)) for cell in cells)) for picks, _ in networks]
        term = beside(their_term(space), alpha, true)
        rows.append({"term": f"ConfigurableOptimizer, {label}", **term, **agreement(counts, networks, False)})
    table = expected_cost(SMALL)
    ours = [table.of_plan({edge: (pick,) for edge, pick in zip(EDGES, picks, strict=True)}) for picks, _ in networks]
    term = beside(lambda a: table.expected(dict(zip(EDGES, a.softmax(-1), strict=True))).log(), alpha, true)
    return [*rows, {"term": "log of our expected cost", **term, **agreement(ours, networks, True)}]


EDGES = ("1<-0", "2<-0", "2<-1")
"""The edges of a cell with three nodes, in the order of α."""


def derived_counts(space: Any) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield the indices of the candidates of every architecture, and the multiply-adds of its derived network."""
    for picks in product(range(len(SMALL.names)), repeat=3):
        space.set_arch_parameters([10 * one_hot(picks).float()])
        yield picks, count_multiply_adds(space.discretize(), 3, PIXELS)


def one_hot(picks: Sequence[int]) -> Tensor:
    """Return the probabilities (edges, candidates) of a single architecture."""
    return nn.functional.one_hot(torch.tensor(picks), len(SMALL.names)).double()


def their_term(space: Any) -> Any:
    """Return the FLOPs term of a supernet as a function of α."""

    def term(alpha: Tensor) -> Tensor:
        del space.model.arch_parameters
        space.model.arch_parameters = alpha  # a plain tensor, so that the gradient has its precision
        return space.get_weighted_flops()

    return term


def beside(term: Any, alpha: Tensor, true: Any) -> dict[str, float]:
    """Compare the gradient of a term with finite differences of it and of the log of the expected multiply-adds.

    Args:
        term: Function of α.
        alpha: α at which the gradients are taken.
        true: Expected multiply-adds as a function of α.
    """
    (gradient,) = torch.autograd.grad(term(alpha), alpha)
    own = differences(term, alpha)
    reference = differences(lambda a: true(a).log(), alpha)
    cosine = nn.functional.cosine_similarity(gradient.flatten(), reference.flatten(), 0)
    return {
        "error": float((gradient - own).abs().max()),
        "size": round(float(gradient.norm() / reference.norm()), 4),
        "cosine": round(float(cosine), 4),
        "same_sign": round(float((gradient.sign() == reference.sign()).double().mean()), 3),
    }


def differences(term: Any, alpha: Tensor, step: float = 1e-5) -> Tensor:
    """Return the central finite differences of a function of α."""
    found = torch.zeros_like(alpha)
    for place in product(*map(range, alpha.shape)):
        values = []
        for sign in (1, -1):
            shifted = alpha.detach().clone()
            shifted[place] += sign * step
            values.append(float(term(shifted)))
        found[place] = (values[0] - values[1]) / (2 * step)
    return found


def agreement(counts: Sequence[float], networks: Sequence[tuple[Any, int]], whole: bool) -> dict[str, Any]:
    """Compare counts of architectures with the multiply-adds of the derived networks.

    Args:
        counts: Counts of the architectures.
        networks: Pairs of architecture and multiply-adds, in the same order.
        whole: Whether the counts are of whole networks; False if they are of the cells alone.
    """
    true = pd.Series([count for _, count in networks])
    true = true if whole else true - true.min()  # the smallest network has no operation in its cells
    given = pd.Series(counts)
    return {"exact": int((given == true).sum()), "of": len(true), "rank": round(given.corr(true, "spearman"), 4)}


# Searches


def searches() -> list[dict[str, Any]]:
    """Return a row for each search for one of two kernels, on random images."""
    rows = []
    for label, counted in ((AS_IS, False), (COUNTED, True)):
        count_convolutions(counted)
        rows += [{"cost": f"FLOPs term, {label}, weight {weight:g}", **their_search(weight)} for weight in WEIGHTS]
    table = expected_cost(TWO_KERNELS)
    target = sum(table.of_plan({"1<-0": (index,)}) for index in (0, 1)) / 2
    for name, cost in (("none", ()), (f"target {target:,.0f}", Cost("multiply_adds", target))):
        found = searched(DARTS(learning_rate=RATE, cost=cost), lambda: Space(TWO_KERNELS), CLASSES)
        rows.append({"cost": f"ours, {name}", **found})
    return rows


def their_search(weight: float) -> dict[str, Any]:
    """Search with the trainer of ConfigurableOptimizer, and return the derived operation and the final α.

    Args:
        weight: Weight of the FLOPs term.
    """
    from confopt.train.configurable_trainer import ConfigurableTrainer

    space, handler = their_supernet(TWO_KERNELS, weight)
    torch.manual_seed(0)
    size = (8 * BATCHES,)
    loader = DataLoader(TensorDataset(torch.randn(*size, 3, PIXELS, PIXELS), torch.randint(0, CLASSES, size)), 8)
    loss, unused = nn.CrossEntropyLoss(), SimpleNamespace()
    weights = torch.optim.SGD(space.model_weight_parameters(), lr=0.01)
    alphas = torch.optim.Adam(space.arch_parameters, lr=RATE, betas=(0.5, 0.999))
    trainer = ConfigurableTrainer(space, unused, weights, alphas, unused, loss, unused, batch_size=8)
    for _ in range(EPOCHS):
        trainer._train_epoch(handler, loader, loader, space, loss, weights, alphas, print_freq=1)
    (((picked, _),),) = space.get_genotype().nodes
    (alpha,) = space.arch_parameters[0].tolist()
    return {"derived": picked, "alpha_7x7": alpha[0], "alpha_3x3": alpha[1]}


if __name__ == "__main__":
    main()
