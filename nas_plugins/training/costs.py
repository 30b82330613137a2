"""Costs in a search: tables of what candidates cost, and what the derived network costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nas_plugins.config.costs import CostConfig
from nas_plugins.config.reader import Config, read_search
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line, read_text
from nas_plugins.runs import directory as runs
from nas_plugins.training.networks import build_space
from nas_plugins.training.trainer import prepare_data, quiet
from search_spaces.complexity import count_multiply_adds, count_parameters
from strategies.base import DifferentiableStrategy, OneShotStrategy
from strategies.cost import Cost, Latency, ProfileError, Profiler, measure_latency
from strategies.cost.latency import device_name


def costs_of(
    config: Config, strategy: OneShotStrategy, space: ModelSpace, data: ImageData, latency: Latency | None
) -> tuple[tuple[Cost, ...], Latency | None]:
    """Return the costs that a search keeps low, with their tables, and the latencies among them.

    Args:
        config: The settings.
        strategy: The strategy.
        space: The space, before it is a supernet.
        data: The images.
        latency: The latencies that the run began with; None if there are none yet.

    Raises:
        InputError: The strategy has no costs, the space cannot be profiled, or latencies are those of another device.
    """
    if not config.costs:
        return (), None
    if not isinstance(strategy, DifferentiableStrategy):
        name = config.values["strategy"]["name"]
        raise InputError(f"cost: {name} has none: take a strategy of this project, such as DARTS or EDAS")
    try:
        profiler = profiler_of(strategy, space, data)
        counted = profiler.counted()
        for cost in config.costs:
            if cost.metric == "latency":
                latency = latency or _latency(cost, config, profiler)
                counted["latency"] = latency.table
    except ProfileError as error:
        raise InputError(f"cost: {one_line(error)}") from None
    costs = tuple(Cost(cost.metric, cost.target, cost.weight, counted[cost.metric]) for cost in config.costs)
    return costs, latency


def with_counts(found: dict[str, Any], network: nn.Module, data: ImageData) -> dict[str, Any]:
    """Return the costs of a derived network as they are counted on it, and by which share they miss their targets.

    Args:
        found: What :meth:`~strategies.cost.search.CostSearch.derived_costs` returns.
        network: The derived network.
        data: The images.
    """
    counted = {
        "parameters": count_parameters(network),
        "multiply_adds": count_multiply_adds(network, data.image_channels, data.image_size),
    }
    costs = []
    for cost in found["costs"]:
        derived = counted.get(cost["metric"], cost["derived"])
        missed = max(0.0, derived / cost["target"] - 1)
        costs.append({**cost, "derived": derived, "missed_by": missed})
    return {**found, "costs": costs}


def profiler_of(strategy: DifferentiableStrategy, space: ModelSpace, data: ImageData) -> Profiler:
    """Return the profiler of a space for one image."""
    image = torch.zeros(1, data.image_channels, data.image_size, data.image_size)
    return strategy.profiler(space)(((image,), {}))


def _latency(cost: CostConfig, config: Config, profiler: Profiler) -> Latency:
    if cost.table is None:
        if config.compute.devices * config.compute.nodes > 1:
            raise InputError("cost.table: several devices need a table of latencies: make it with nas-plugins latency")
        return measure_latency(profiler, _device(config))
    wanted = cost.device or device_name(_device(config))
    found = read_latency(Path(cost.table))
    if found.device != wanted:
        raise InputError(f"{cost.table}: is of {found.device!r}, not of {wanted!r}; cost.device may name it")
    if not found.table.fits(profiler.architecture.candidates):
        raise InputError(f"{cost.table}: is of another space: its choices are not those of this one")
    return found


def _device(config: Config) -> torch.device:
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    accelerated = config.compute.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if accelerated else "cpu")


def read_latency(file: Path) -> Latency:
    """Return the latencies of a file.

    Raises:
        InputError: The file is no table of latencies.
    """
    try:
        return Latency.from_json(json.loads(read_text(file)))
    except ValueError as error:
        raise InputError(f"{file}: {one_line(error)}") from None


@quiet()
def latency_table(config: PathLike, output: PathLike, overrides: tuple[str, ...] = ()) -> Latency:
    """Measure the latency of each candidate of a space on this device, and write the table.

    Args:
        config: Config file of a search.
        output: File to write.
        overrides: ``--key value`` pairs, which take precedence over the file.

    Raises:
        InputError: A setting cannot be used, or the strategy has no costs.
    """
    settings = read_search(config, overrides)
    data = prepare_data(settings)
    strategy = settings.build("strategy")
    if not isinstance(strategy, DifferentiableStrategy):
        raise InputError(f"strategy.name: {type(strategy).__name__} has no costs; take one of this project")
    space = build_space(settings, data)
    try:
        latency = measure_latency(profiler_of(strategy, space, data), _device(settings))
    except ProfileError as error:
        raise InputError(f"space: {one_line(error)}") from None
    runs.write_json(Path(output), latency.to_json())
    return latency
