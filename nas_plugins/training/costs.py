"""Costs in a search: cost tables of the candidates, and costs of the derived network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nas_plugins.config.costs import CostConfig
from nas_plugins.config.reader import Config, read_search
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line, read_object, read_text
from nas_plugins.runs import directory as runs
from nas_plugins.training.inputs import example_of
from nas_plugins.training.networks import build_space
from nas_plugins.training.trainer import prepare_data, quiet
from search_spaces.complexity import count_multiply_adds_of, count_parameters
from strategies.base import DifferentiableStrategy, OneShotStrategy
from strategies.cost import Cost, Latency, ProfileError, Profiler, measure_latency
from strategies.cost.latency import device_name
from strategies.cost.search import Example
from strategies.supernet.trial_pass import first_samples


def costs_of(
    config: Config, strategy: OneShotStrategy, space: ModelSpace, example: Example, latency: Latency | None
) -> tuple[tuple[Cost, ...], Latency | None]:
    """Return the costs that a search keeps low, with their tables, and the latencies among them.

    Args:
        config: The settings.
        strategy: The strategy.
        space: The space, before it becomes a supernet.
        example: Example input of the model.
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
        profiler = profiler_of(strategy, space, example)
        counted = profiler.counted()
        for cost in config.costs:
            if cost.metric == "latency":
                latency = latency or _latency(cost, config, profiler)
                counted["latency"] = latency.table
    except ProfileError as error:
        raise InputError(f"cost: {one_line(error)}") from None
    costs = tuple(Cost(cost.metric, cost.target, cost.weight, counted[cost.metric]) for cost in config.costs)
    return costs, latency


def with_counts(found: dict[str, Any], network: nn.Module, example: Example) -> dict[str, Any]:
    """Return the costs counted on a derived network, and the shares by which they miss their targets.

    Args:
        found: What :meth:`~strategies.cost.search.CostSearch.derived_costs` returns.
        network: The derived network.
        example: Example input of the network.
    """
    counted = {
        "parameters": count_parameters(network),
        "multiply_adds": count_multiply_adds_of(network, first_samples(example, 1)),
    }
    costs = []
    for cost in found["costs"]:
        derived = counted.get(cost["metric"], cost["derived"])
        missed = max(0.0, derived / cost["target"] - 1)
        costs.append({**cost, "derived": derived, "missed_by": missed})
    return {**found, "costs": costs}


def profiler_of(strategy: DifferentiableStrategy, space: ModelSpace, example: Example) -> Profiler:
    """Return the profiler of a space for one sample of an input."""
    return strategy.profiler(space)(first_samples(example, 1))


def _latency(cost: CostConfig, config: Config, profiler: Profiler) -> Latency:
    if cost.table is None:
        if config.compute.devices * config.compute.nodes > 1:
            raise InputError("cost.table: several devices need a table of latencies: make it with nas-plugins latency")
        return measure_latency(profiler, _device(config))
    wanted = cost.device or device_name(_device(config))
    found = read_latency(Path(cost.table))
    if found.device != wanted:
        raise InputError(f"{cost.table}: is of {found.device!r}, not of {wanted!r}; cost.device may name it")
    _check_same_space(cost.table, config)
    candidates = profiler.architecture.candidates
    if not found.table.fits(candidates) or not candidates.keys() <= found.table.candidates.keys():
        raise InputError(f"{cost.table}: is of another space: its choices are not those of this one")
    return found


def _check_same_space(file: PathLike, config: Config) -> None:
    """Check that a table of latencies is of the space of a config, on images of this size.

    Raises:
        InputError: The table names another space or size. Tables that name none are accepted.
    """
    written = read_object(Path(file))
    for section, here in _space_of(config).items():
        there = written.get(section)
        if not isinstance(there, dict):
            continue
        for key in sorted(here.keys() | there.keys()):
            if there.get(key) != here.get(key):
                raise InputError(
                    f"{file}: was measured with {section}.{key}: {there.get(key)}, and here it is {here.get(key)}; "
                    "nas-plugins latency makes a table of this space"
                )


def save_latency(file: Path, latency: Latency, config: Config) -> None:
    """Write a table of latencies, with the settings of its space."""
    runs.write_json(file, {**latency.to_json(), **_space_of(config)})


def _space_of(config: Config) -> dict[str, Any]:
    """Return the settings that latencies depend on, in plain JSON types."""
    sections = {"space": config.values["space"], "data": {"image_size": config.values["data"].get("image_size")}}
    plain: dict[str, Any] = json.loads(json.dumps(sections))
    return plain


def _device(config: Config) -> torch.device:
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    accelerated = config.compute.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if accelerated else "cpu")


def read_latency(file: Path) -> Latency:
    """Return the latencies of a file.

    Raises:
        InputError: The file is not a table of latencies.
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
    example = example_of(settings, data, lambda: build_space(settings, data))
    try:
        latency = measure_latency(profiler_of(strategy, space, example), _device(settings))
    except ProfileError as error:
        raise InputError(f"space: {one_line(error)}") from None
    save_latency(Path(output), latency, settings)
    return latency
