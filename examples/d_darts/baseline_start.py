"""Compare the initial supernet of DARTOpti with the baseline that it starts from.

    python examples/d_darts/baseline_start.py [--baseline resnet18] [--images 32] [--size 32] [--channels 8]

The same random images pass through the supernet, with every operation weighted by the sigmoid of its α, and through
the operations of the baseline alone, with the same weights. The table compares the outputs of each layer by their
correlation and their distance relative to the norm. Every operation outside the baseline adds to the distance, since
σ(0) is a half; a lower α of these operations (other_alpha) makes the outputs arbitrarily close.
"""

import argparse

import pandas as pd
import torch
from torch import Tensor

from nas_plugins import DDARTS, DartOptiSpace
from search_spaces.baselines import BASELINES
from strategies.relaxation import Plan, sigmoid


def compare(baseline: str, other_alpha: float, images: Tensor, channels: int) -> list[dict[str, object]]:
    """Return one table row per layer with correlation and distance of its outputs."""
    torch.manual_seed(0)
    space = DartOptiSpace(baseline, channels=channels, other_alpha=other_alpha)
    strategy = DDARTS()
    strategy.mutate_model(space)
    alphas, candidates = strategy.architecture.alphas, strategy.architecture.candidates
    own = {
        edge: tuple(i for i, name in enumerate(candidates[edge]) if values[name] > other_alpha)
        for edge, values in space.initial_alphas.items()
    }
    rows = []
    for layer, (mixed, alone) in enumerate(
        zip(outputs(strategy, space, sigmoid(alphas), images), outputs(strategy, space, own, images), strict=True)
    ):
        rows.append(
            {
                "baseline": baseline,
                "α of the others": other_alpha,
                "layer": layer,
                "correlation": float(torch.corrcoef(torch.stack([mixed.flatten(), alone.flatten()]))[0, 1]),
                "distance": float((mixed - alone).norm() / alone.norm()),
            }
        )
    return rows


def outputs(strategy: DDARTS, space: DartOptiSpace, plan: Plan, images: Tensor) -> list[Tensor]:
    """Return the output of every layer, with batch normalization by the statistics of the images."""
    found: list[Tensor] = []
    hooks = [cell.register_forward_hook(lambda *call: found.append(call[-1])) for cell in space.network.cells]
    strategy.architecture.plan = plan
    with torch.no_grad():
        space(images)
    for hook in hooks:
        hook.remove()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", default="resnet18", help=f"{', '.join(BASELINES)}, or a genotype file")
    parser.add_argument("--images", type=int, default=32, help="random images")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--channels", type=int, default=8)
    options = parser.parse_args()
    images = torch.randn(options.images, 3, options.size, options.size, generator=torch.Generator().manual_seed(1))
    rows = [
        row
        for other_alpha in (0.0, -2.0, -5.0, -10.0)
        for row in compare(options.baseline, other_alpha, images, options.channels)
    ]
    table = pd.DataFrame(rows).pivot(index="layer", columns="α of the others", values=["correlation", "distance"])
    print(table.round(4).to_string())
