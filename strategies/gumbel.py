"""Relaxations that sample candidates by Gumbel noise: of GDAS, SNAS and ProxylessNAS.

The arg-max of α plus Gumbel noise is a sample with the probabilities softmax(α), and the n largest are a sample of n
without replacement. All three validate the path of the strongest candidates.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from strategies.noise import gumbel
from strategies.relaxation import Alphas, Plan, Step, WeightedOps, argmax, rows


class HardGumbelSoftmax:
    """Every edge runs one sampled candidate (GDAS, section 3.2).

    Its weight is 1, with the gradient of the softmax of (α + noise) / τ. Architecture and weight steps have samples of
    their own.

    Args:
        seed: Seed of the noise.
        tau_max: τ in the first epoch.
        tau_min: τ in the last epoch, above 0; it falls linearly.

    Raises:
        ValueError: A temperature is out of range.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(self, seed: int, tau_max: float = 10.0, tau_min: float = 0.1) -> None:
        _check("tau_max", tau_max, "tau_min", tau_min)
        self.seed, self.tau_max, self.tau_min = seed, tau_max, tau_min

    def tau(self, step: Step) -> float:
        """Return τ of an epoch."""
        last = 1 - 1 / max(step.epochs or 0, 2)  # the progress in the last epoch
        return self.tau_max - (self.tau_max - self.tau_min) * step.progress / last

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients reach all α of an edge."""
        noisy, plan = _noisy(alphas, self.seed, step, "architecture"), {}
        for edge, sampled in _largest(noisy).items():
            probability = torch.softmax(noisy[edge] / self.tau(step), dim=0)[sampled : sampled + 1]
            plan[edge] = WeightedOps((sampled,), 1 + (probability - probability.detach()))
        return plan

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a weight step."""
        return {edge: (sampled,) for edge, sampled in _largest(_noisy(alphas, self.seed, step, "weights")).items()}

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan in which every edge runs its strongest candidate."""
        return argmax(alphas)


class ConcreteEdges:
    """Every edge mixes its candidates with a sample of the concrete distribution of its α (SNAS, section 2.2)::

        softmax((α + noise) / temperature)

    Args:
        seed: Seed of the noise.
        initial_temperature: Temperature in the first epoch.
        final_temperature: Temperature at the end of the search, above 0; it falls linearly.

    Raises:
        ValueError: A temperature is out of range.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(self, seed: int, initial_temperature: float = 1.0, final_temperature: float = 0.03) -> None:
        _check("initial_temperature", initial_temperature, "final_temperature", final_temperature)
        self.seed, self.initial, self.final = seed, initial_temperature, final_temperature

    def temperature(self, step: Step) -> float:
        """Return the temperature of an epoch."""
        return self.initial - (self.initial - self.final) * step.progress

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a step; gradients reach all α."""
        noisy, temperature = _noisy(alphas, self.seed, step), self.temperature(step)
        return {edge: torch.softmax(values / temperature, dim=0) for edge, values in noisy.items()}

    weights = architecture

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan in which every edge runs its strongest candidate."""
        return argmax(alphas)


class BinaryGates:
    """Every edge runs one sampled candidate (ProxylessNAS, section 3.2).

    An architecture step samples two candidates of an edge without replacement, as if there were no others, and opens
    the binary gate of one of them, by the softmax of the two α. The gradient of a gate stands for that of its
    probability (section 3.2.1).

    Args:
        seed: Seed of the samples.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients reach the two sampled α of an edge."""
        paths, gates = (rows(_noisy(alphas, self.seed, step, name)) for name in ("paths", "gates"))
        plan = {}
        for edge, path in paths.items():
            pair = sorted(range(len(path)), key=path.__getitem__)[-2:]
            pair.sort(key=gates[edge].__getitem__, reverse=True)
            probabilities = torch.softmax(torch.stack([alphas[edge][index] for index in pair]), dim=0)
            closed = probabilities - probabilities.detach()
            plan[edge] = WeightedOps(tuple(pair), torch.cat([1 + closed[:1], closed[1:]]))
        return plan

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a weight step, a sample of its own."""
        return {edge: (sampled,) for edge, sampled in _largest(_noisy(alphas, self.seed, step, "weights")).items()}

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan in which every edge runs its strongest candidate."""
        return argmax(alphas)


def _noisy(alphas: Alphas, seed: int, step: Step, name: str = "") -> dict[str, Tensor]:
    """Return edge -> α + Gumbel noise."""
    noise = gumbel(alphas, seed, step, name)
    return {edge: alpha + noise[edge] for edge, alpha in alphas.items()}


def _largest(values: Alphas) -> dict[str, int]:
    """Return edge -> index of the largest value."""
    return {edge: row.index(max(row)) for edge, row in rows(values).items()}


def _check(first: str, high: float, last: str, low: float) -> None:
    """Raise a ValueError for temperatures that do not fall, or fall to zero."""
    if not 0 < low <= high < float("inf"):
        raise ValueError(f"{last}: {low} should be above 0 and at most {first}, {high}")
