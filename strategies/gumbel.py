"""Relaxations of GDAS and ProxylessNAS, which sample candidates by Gumbel noise; for SNAS see :mod:`strategies.snas`.

The arg-max of α plus Gumbel noise is a sample with the probabilities softmax(α), and the n largest values are a sample
of n candidates without replacement. All three strategies validate the path of the strongest candidates.
"""

from __future__ import annotations

from typing import Literal

import torch

from search_spaces.checks import require
from strategies.noise import gumbel
from strategies.relaxation import Alphas, Plan, Step, WeightedOps, argmax, rows


class SampledPath:
    """Base class for relaxations that sample a candidate of every edge: the plans of weight steps and validation.

    Args:
        seed: Seed of the noise. Architecture and weight steps have different samples.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def noisy(self, alphas: Alphas, step: Step, name: str = "") -> Alphas:
        """Return α plus Gumbel noise; different names give different noise."""
        noise = gumbel(alphas, self.seed, step, name)
        return {edge: alpha + noise[edge] for edge, alpha in alphas.items()}

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a weight step, in which every edge runs a sampled candidate."""
        return argmax(self.noisy(alphas, step, "weights"))

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan in which every edge runs its strongest candidate."""
        return argmax(alphas)


class HardGumbelSoftmax(SampledPath):
    """Relaxation in which every edge runs one sampled candidate (GDAS, section 3.2).

    The weight of the candidate is 1, with the gradient of the softmax of (α + noise) / τ.

    Args:
        seed: Seed of the noise.
        tau_max: τ in the first epoch.
        tau_min: τ in the last epoch, above 0; it falls linearly.

    Raises:
        ValueError: A temperature is out of range.
    """

    def __init__(self, seed: int, tau_max: float = 10.0, tau_min: float = 0.1) -> None:
        super().__init__(seed)
        require("tau_min", tau_min, 0 < tau_min <= tau_max < float("inf"), f"above 0 and at most tau_max, {tau_max}")
        self.tau_max, self.tau_min = tau_max, tau_min

    def tau(self, step: Step) -> float:
        """Return τ of an epoch."""
        last = 1 - 1 / max(step.epochs or 0, 2)  # the progress in the last epoch
        return self.tau_max - (self.tau_max - self.tau_min) * step.progress / last

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients reach all α of an edge."""
        noisy, plan = self.noisy(alphas, step, "architecture"), {}
        for edge, row in rows(noisy).items():
            sampled = row.index(max(row))
            probability = torch.softmax(noisy[edge] / self.tau(step), dim=0)[sampled : sampled + 1]
            plan[edge] = WeightedOps((sampled,), 1 + (probability - probability.detach()))
        return plan


class BinaryGates(SampledPath):
    """Relaxation in which every edge runs one sampled candidate (ProxylessNAS, section 3.2).

    An architecture step samples two candidates of an edge without replacement, as if there were no others, and opens
    the binary gate of one of them, by the softmax of the two α. The gradient of a gate stands for that of its
    probability (section 3.2.1).

    Args:
        seed: Seed of the samples.
    """

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients reach the two sampled α of an edge."""
        paths, gates = (rows(self.noisy(alphas, step, name)) for name in ("paths", "gates"))
        plan = {}
        for edge, path in paths.items():
            pair = sorted(range(len(path)), key=path.__getitem__)[-2:]
            pair.sort(key=gates[edge].__getitem__, reverse=True)
            probabilities = torch.softmax(torch.stack([alphas[edge][index] for index in pair]), dim=0)
            closed = probabilities - probabilities.detach()
            plan[edge] = WeightedOps(tuple(pair), torch.cat([1 + closed[:1], closed[1:]]))
        return plan
