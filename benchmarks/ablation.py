"""Measure the cost of the ablation loss of D-DARTS: our architecture step against a plain implementation of it.

    python benchmarks/ablation.py [--small] [--cells N] [--rounds N] [--threads N] [--output ablation.csv]

The plain step follows the released code: n + 1 forward passes (one with all cells, one without each cell) and n
backward passes (one for the loss of each cell), which also compute the gradient of the weights. A second plain step
leaves this gradient out, as our steps do. All steps run in one process with the same supernet, α and images. They
alternate, so that a machine that slows down slows all of them. Ratios are relative to the first step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from nas_plugins import DDARTS, DDartsSpace
from strategies.ablation import Ablation, ablation_losses, random_weights
from strategies.bilevel import frozen
from strategies.objective import ArchitectureBatch, by_cell, total, zero_one
from strategies.relaxation import sigmoid

W_ABL, W_01 = 0.5, 7.0


class Supernet:
    """Supernet with a batch of images; every step computes the gradients of all α."""

    def __init__(self, cells: int, channels: int, batch: int, image: int) -> None:
        torch.manual_seed(0)
        strategy = DDARTS()
        space = strategy.mutate_model(DDartsSpace(channels=channels, layers=cells))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = space.to(self.device, memory_format=torch.channels_last)
        self.architecture = strategy.architecture.to(self.device)
        self.alphas = self.architecture.alphas
        self.images = torch.randn(batch, 3, image, image, device=self.device)
        self.labels = torch.randint(0, 10, (batch,), device=self.device)
        self.cells = [f"cell_{layer}" for layer in range(cells)]

    def loss(self) -> Tensor:
        return cross_entropy(self.model(self.images), self.labels)

    def ours(self, absent: str = "random", gradient: bool = False) -> None:
        """Run the architecture step of DDARTS."""
        objective = total(Ablation(W_ABL, absent, gradient), zero_one(W_01, by_cell))
        with frozen(list(self.model.parameters())):
            self.architecture.plan = sigmoid(self.alphas)
            batch = ArchitectureBatch(self.loss, self.loss, self.architecture, self.model)
            torch.autograd.grad(objective(batch), list(self.alphas.values()))

    def plain(self, weights: bool = True) -> None:
        """Run the step as the equations of the paper are written."""
        with frozen([] if weights else list(self.model.parameters())):
            plan = sigmoid(self.alphas)
            without = []
            for cell in self.cells:
                edges = [edge for edge in plan if edge.startswith(f"{cell}/")]
                self.architecture.plan = {**plan, **random_weights(self.architecture, edges, f"0/0/{cell}")}
                without.append(self.loss().detach())
            self.architecture.plan = plan
            loss = self.loss()
            ablation = ablation_losses(loss.detach() - torch.stack(without))
            for index, cell in enumerate(self.cells):
                own = torch.cat([alpha for edge, alpha in self.alphas.items() if edge.startswith(f"{cell}/")])
                term = -W_01 * (torch.sigmoid(own) - 0.5).square().mean()
                (loss + term - W_ABL * ablation[index]).backward(retain_graph=True)
        for parameter in (*self.model.parameters(), *self.alphas.values()):
            parameter.grad = None


def main() -> None:
    """Measure all steps in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="8 channels, batch 16, 16×16")
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="counted steps of each kind; one before is not counted")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own")
    parser.add_argument("--output", type=Path, help="CSV file with every measurement")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    channels, batch, image = (8, 16, 16) if options.small else (16, 64, 32)
    supernet = Supernet(options.cells, channels, batch, image)
    steps: dict[str, Callable[[], None]] = {
        "plain, as released": supernet.plain,
        "plain, without the gradient of the weights": partial(supernet.plain, weights=False),
        "ours": supernet.ours,
        "ours, absent: skip": partial(supernet.ours, "skip"),
        "ours, with the ablation gradient": partial(supernet.ours, "random", True),
    }
    rows = [
        {"round": number, "step": name, "seconds": seconds(steps[name])}
        for number in tqdm(range(options.rounds + 1), desc="measuring", unit="round")
        for name in steps
    ]
    table = pd.DataFrame(rows)
    table = table[table["round"] > 0]
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.output, index=False)
    print(f"{options.cells} cells, {channels} channels, batch {batch}, {image}×{image}")
    print(summary(table).to_string(index=False))


def seconds(step: Callable[[], None]) -> float:
    """Return the duration of a step in seconds."""
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per kind of step: its median, and its ratio to the first kind in the same round with its range."""
    by_step = table.pivot(index="round", columns="step", values="seconds")[table["step"].unique()]
    ratios = by_step.div(by_step.iloc[:, 0], axis=0)
    return pd.DataFrame(
        {
            "step": by_step.columns,
            "s/step": [f"{value:.3f}" for value in by_step.median()],
            "ratio": [f"{r.median():.3f} ({r.min():.3f} to {r.max():.3f})" for _, r in ratios.items()],
        }
    )


if __name__ == "__main__":
    main()
