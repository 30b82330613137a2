"""Reproduce Table 1 and Figure 2 of the course project: bilevel optimization of two variables (section 4.1).

    python examples/darts_course_project/toy_problem.py [runs/toy_problem]

Minimizes L_val = αw − 2α + 1 over α, where w minimizes L_train = w² − 2αw + α². The gradients of α are
computed by strategies.bilevel, as in a search. Writes table.csv, trajectories.csv and trajectories.png.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from nas_plugins.report.style import INK, MUTED, SPARE_COLOURS, STYLE
from search_spaces.files import write_text_whole, write_whole
from strategies.bilevel import BilevelProblem, first_order, frozen, second_order

XIS = (0.0, 0.3, 0.5, 0.7)
LEARNING_RATE, MOST_ITERATIONS, THRESHOLD = 1e-2, 10_000, 1e-4
START, OPTIMUM = (2.0, -2.0), (1.0, 1.0)
"""Points (α, w)."""


def solve(xi: float) -> pd.DataFrame:
    """Run gradient descent from the start until α and w both move by less than the threshold.

    Args:
        xi: Step size ξ of the virtual step; 0 is the first-order approximation.

    Returns:
        Columns iteration, alpha and w, with the start as the first row.
    """
    alpha, w = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in START)
    upper, lower = torch.optim.SGD([alpha], lr=LEARNING_RATE), torch.optim.SGD([w], lr=LEARNING_RATE)
    problem = BilevelProblem(
        train_loss=lambda: w**2 - 2 * alpha * w + alpha**2,
        val_loss=lambda: alpha * w - 2 * alpha + 1,
        alphas=[alpha],
        weights=[w],
        optimizer=lower,
    )
    path = [START]
    while len(path) <= MOST_ITERATIONS:
        (alpha.grad,) = second_order(problem, xi) if xi > 0 else first_order(problem)
        upper.step()
        with frozen([alpha]):  # the step of w uses the new α
            (w.grad,) = torch.autograd.grad(problem.train_loss(), [w])
        lower.step()
        path.append((alpha.item(), w.item()))
        if max(abs(new - old) for new, old in zip(path[-1], path[-2], strict=True)) < THRESHOLD:
            break
    return pd.DataFrame(path, columns=["alpha", "w"]).rename_axis("iteration").reset_index()


def plot(paths: dict[float, pd.DataFrame], file: Path) -> None:
    """Plot Figure 2: trajectory of each ξ over the validation loss, with the feasible set and the optimum."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        axis = figure.subplots()
        alphas, ws = np.meshgrid(np.linspace(0.4, 3.3, 200), np.linspace(-2.4, 3.2, 200))
        loss = alphas * ws - 2 * alphas + 1
        lines = axis.contour(alphas, ws, loss, levels=14, colors="#dbe4ee", linewidths=0.8, linestyles="solid")
        axis.clabel(lines, fontsize=6.5, colors="#94a3b8")
        axis.plot([0.4, 3.2], [0.4, 3.2], color=MUTED, linestyle="--", label="feasible set w = α")
        for (xi, path), colour in zip(paths.items(), SPARE_COLOURS, strict=False):
            label = f"ξ = {xi:g}, {len(path) - 1} iterations"
            axis.plot(path["alpha"], path["w"], color=colour, label=label)
            axis.plot(*path[["alpha", "w"]].iloc[-1], "o", color=colour, markersize=6)
        axis.plot(*START, "s", color=INK, markersize=6, label="start (2, −2)")
        axis.plot(*OPTIMUM, "*", color="#facc15", markeredgecolor=INK, markersize=15, label="optimum (1, 1)")
        axis.set(xlabel="α", ylabel="w", xlim=(0.4, 3.3), ylim=(-2.4, 3.2))
        axis.grid(False)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3, borderaxespad=0, fontsize=8)
        write_whole(file, lambda stream: figure.savefig(stream, format="png", dpi=144, facecolor="white"))


def main(output: Path) -> pd.DataFrame:
    """Solve for every ξ, write the files and return Table 1."""
    paths, rows = {}, []
    solve(XIS[-1])  # warm-up, because the first steps of a process are slow
    for xi in XIS:
        started = time.perf_counter()
        paths[xi] = path = solve(xi)
        iterations = len(path) - 1
        seconds = (time.perf_counter() - started) / iterations
        rows.append([xi, iterations, seconds, *path[["alpha", "w"]].iloc[-1]])
    table = pd.DataFrame(rows, columns=["xi", "iterations", "seconds_per_iteration", "alpha", "w"])
    output.mkdir(parents=True, exist_ok=True)
    write_text_whole(output / "table.csv", table.to_csv(index=False))
    trajectories = pd.concat([path.assign(xi=xi) for xi, path in paths.items()])
    write_text_whole(output / "trajectories.csv", trajectories.to_csv(index=False))
    plot(paths, output / "trajectories.png")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, nargs="?", default=Path("runs/toy_problem"), help="where the files go")
    folder = parser.parse_args().output
    print(
        main(folder).to_string(index=False, float_format="{:.4g}".format),
        f"figure: {folder}/trajectories.png",
        sep="\n",
    )
