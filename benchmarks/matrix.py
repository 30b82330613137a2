"""Test every strategy, ours and NNI's, on every space, ours and those of NNI's hub, in one short real run each.

    python benchmarks/matrix.py OUTPUT [--spaces NAME ...] [--strategies NAME ...]

A run consists of an NNI experiment with NNI's own evaluator on a few random images, the export of its best model, and a
forward pass of a fresh instance of the space that is frozen to this model. The script needs the extra rl. It writes
matrix.csv, with one row per pair, and matrix.md, the same as a table, into OUTPUT. The runs of a space share a separate
process. Pairs that are already in the CSV file are not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

if __package__:  # imported by the tests
    from benchmarks.methods import METHODS, UNEVEN, make
else:
    from methods import METHODS, UNEVEN, make

OURS = ("DARTS", "DARTS second order", "EDAS", "FairDARTS", "DDARTS", *METHODS)
THEIRS = (
    "NNI DARTS", "NNI GumbelDARTS", "NNI Proxyless", "NNI ENAS", "NNI RandomOneShot", "NNI Random",
    "NNI RegularizedEvolution", "NNI PolicyBasedRL", "NNI TPE", "NNI GridSearch",
)  # fmt: skip
STRATEGIES = (*OURS, *THEIRS)
SPACES = (
    "DartsSpace", "FineTunedDartsSpace", "DDartsSpace", "DartOptiSpace", "hub DARTS", "hub NASNet", "hub ENAS",
    "hub AmoebaNet", "hub PNAS", "hub NasBench201", "hub NasBench101", "hub ProxylessNAS", "hub MobileNetV3",
    "hub ShuffleNet", "hub AutoFormer",
)  # fmt: skip
SECONDS = 240
"""Time limit of a run."""


def main() -> None:
    """Run the pairs that have not run yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--spaces", nargs="+", default=SPACES, choices=SPACES, metavar="NAME")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES, metavar="NAME")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        for strategy in options.strategies:
            print("\n" + json.dumps(run(options.spaces[0], strategy)), flush=True)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "matrix.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["space", "strategy", "result", "seconds"])
    known = set(zip(table["space"], table["strategy"], strict=True))
    for space in tqdm(options.spaces, unit="space"):
        missing = [strategy for strategy in options.strategies if (space, strategy) not in known]
        if missing:
            table = pd.concat([table, pd.DataFrame(run_apart(space, missing))], ignore_index=True)
            table.to_csv(path, index=False)
    (options.output / "matrix.md").write_text(markdown(table), encoding="utf-8")
    print(table.pivot(index="space", columns="strategy", values="result").map(lambda r: "ok" if r == "ok" else "–"))


def run_apart(space: str, strategies: Sequence[str]) -> list[dict[str, Any]]:
    """Run strategies on a space in a separate process, and return their rows."""
    call = [sys.executable, __file__, "-", "--here", "--spaces", space, "--strategies", *strategies]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"space"')]
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return rows + [
        {"space": space, "strategy": name, "result": f"the process ended: {last}", "seconds": None}
        for name in strategies[len(rows) :]
    ]


def run(space: str, strategy: str, steps: int = 2) -> dict[str, Any]:
    """Run one pair, and return {"space", "strategy", "result": "ok" or the error in one line, "seconds"}."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    started = time.perf_counter()
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(SECONDS)
    try:
        _search(_space(space), _strategy(strategy), steps)
        result = "ok"
    except Exception as error:  # any error is a result for the table
        result = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    finally:
        signal.alarm(0)
    return {"space": space, "strategy": strategy, "result": result, "seconds": round(time.perf_counter() - started, 1)}


def _give_up(*_: object) -> None:
    raise TimeoutError(f"not done after {SECONDS} s")


def _search(space: Callable[[], Any], strategy: Any, steps: int) -> None:
    import torch
    from nni.nas.evaluator import FunctionalEvaluator
    from nni.nas.evaluator.pytorch import Classification, DataLoader
    from nni.nas.experiment import NasExperiment
    from nni.nas.experiment.config import NasExperimentConfig
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
    from torch.utils.data import TensorDataset

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(2 * steps, 3, 16, 16), torch.randint(0, 10, (2 * steps,)))
    one_shot = isinstance(strategy, OneShotStrategy)
    if one_shot:
        evaluator = Classification(
            train_dataloaders=DataLoader(data, batch_size=2), val_dataloaders=DataLoader(data, batch_size=2),
            num_classes=10, max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
    else:  # Classification cannot report the result of a trial: Lightning has released the data loaders that it reads
        evaluator = FunctionalEvaluator(partial(_train, images=data.tensors[0], labels=data.tensors[1]))
    searched = space()
    settings = NasExperimentConfig(
        execution_engine="sequential", model_format="raw" if one_shot else "simplified", max_trial_number=2
    )
    with tempfile.TemporaryDirectory() as folder:
        settings.experiment_working_directory = folder
        experiment = NasExperiment(searched, evaluator, strategy, settings)
        try:
            experiment.run()
            (sample,) = experiment.export_top_models(top_k=1, formatter="dict")
        finally:
            experiment.stop()
    network = space().freeze(sample).eval()
    with torch.no_grad():
        shape = network(torch.randn(2, 3, 16, 16)).shape
    if shape != (2, 10):
        raise RuntimeError(f"the derived network gives {tuple(shape)}")


def _train(model: Any, images: Any, labels: Any) -> None:
    """Run a trial of a multi-trial strategy: one step on the images, and a report."""
    import nni
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    cross_entropy(model(images), labels).backward()
    optimizer.step()
    nni.report_final_result(float((model(images).argmax(1) == labels).float().mean()))


def _strategy(name: str) -> Any:
    import nni.nas.strategy as nni_strategies

    import nas_plugins
    from strategies.enas import ENAS

    if name == "NNI ENAS":
        return ENAS(reward_metric_name="val_acc")  # NNI's own, with a loader that current Lightning accepts
    if name == "NNI PolicyBasedRL":
        return nni_strategies.PolicyBasedRL(max_collect=1, trial_per_collect=2)
    if name in METHODS:
        # Settings that allow two channels and two steps.
        few = {"PCDARTS": {"partial_channels": 2}, **{uneven: {"weight_steps": 1} for uneven in UNEVEN}}
        return make(name, 1, **few.get(name, {}))
    if name.startswith("NNI "):
        return getattr(nni_strategies, name.removeprefix("NNI "))()
    return nas_plugins.DARTS(order="second") if name == "DARTS second order" else getattr(nas_plugins, name)()


def _space(name: str) -> Callable[[], Any]:
    import nni.nas.hub.pytorch as hub

    import nas_plugins

    small = {"channels": 4, "layers": 3, "nodes": 2}
    cells = {"width": 4, "num_cells": 3, "dataset": "cifar"}
    shallow = {
        "base_widths": (16, 8, 8, 16, 16, 16),
        "squeeze_excite": ("none", "optional", "none"),
        "stride": (2, 1, 2, 1, 2, 1),
        "activation": ("hswish", "relu", "relu", "hswish", "hswish", "hswish"),
    }
    few = ("max_pool_3x3", "skip_connect", "simple_conv_3x3", "bottleneck_1x3x1")
    return {
        "DartsSpace": partial(nas_plugins.DartsSpace, **small),
        "FineTunedDartsSpace": partial(nas_plugins.FineTunedDartsSpace, **small),
        "DDartsSpace": partial(nas_plugins.DDartsSpace, **small),
        "DartOptiSpace": partial(nas_plugins.DartOptiSpace, channels=4, operations=few),
        "hub DARTS": partial(hub.DARTS, **cells),
        "hub NASNet": partial(hub.NASNet, **cells),
        "hub ENAS": partial(hub.ENAS, **cells),
        "hub AmoebaNet": partial(hub.AmoebaNet, **cells),
        "hub PNAS": partial(hub.PNAS, **cells),
        "hub NasBench201": partial(hub.NasBench201, stem_out_channels=4, num_modules_per_stack=1),
        "hub NasBench101": partial(hub.NasBench101, stem_out_channels=4, num_stacks=2, num_modules_per_stack=1),
        "hub ProxylessNAS": partial(
            hub.ProxylessNAS, num_labels=10, base_widths=(8, 8, 8, 8, 8, 8, 8, 8, 16), width_mult=1.0
        ),
        "hub MobileNetV3": partial(
            hub.MobileNetV3Space, num_labels=10, width_multipliers=(1.0, 2.0), expand_ratios=(1.0, 2.0),
            depth_range=(1, 2), **shallow,
        ),
        "hub ShuffleNet": partial(hub.ShuffleNetSpace, num_labels=10),
        "hub AutoFormer": partial(
            hub.AutoFormer, img_size=16, patch_size=4, num_labels=10, search_depth=(1, 2), search_embed_dim=(24, 32),
            search_mlp_ratio=(2.0, 3.0), search_num_heads=(2, 4),
        ),
    }[name]  # fmt: skip


def markdown(table: pd.DataFrame) -> str:
    """Return a table of the pairs, and below it the errors of those that fail."""
    reasons = list(dict.fromkeys(result for result in table["result"] if result != "ok"))
    short = table.assign(result=[r if r == "ok" else f"[{reasons.index(r) + 1}]" for r in table["result"]])
    wide = short.pivot(index="strategy", columns="space", values="result").fillna("")
    wide = wide.reindex(index=[s for s in STRATEGIES if s in wide.index], columns=[s for s in SPACES if s in wide])
    lines = [
        "| | " + " | ".join(wide.columns) + " |",
        "| --- |" + " --- |" * len(wide.columns),
        *("| " + " | ".join([name, *row]) + " |" for name, row in zip(wide.index, wide.to_numpy(), strict=True)),
        "",
        *(f"[{number}] {reason}  " for number, reason in enumerate(reasons, start=1)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
