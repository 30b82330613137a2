"""Edges whose weights are sampled from Dirichlet distributions (DrNAS, section 2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn.functional import elu

from strategies.noise import generator
from strategies.objective import ArchitectureBatch, Objective
from strategies.relaxation import Alphas, Plan, Step


def concentration(alpha: Tensor) -> Tensor:
    """Return the concentration of the Dirichlet distribution of an edge, elu(α) + 1 (DrNAS, section 2.2)."""
    return elu(alpha) + 1


class DirichletEdges:
    """Relaxation of every edge with weights sampled from its Dirichlet distribution (DrNAS, section 2.2).

    Architecture and weight steps have different samples, as in the released code. Gradients reach α along the path of
    the sample (Jankowiak and Obermeyer, 2018). Validation uses the mean of the distribution.

    Args:
        seed: Seed of the samples.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients flow through it to α."""
        return self._sample(alphas, step, "architecture")

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a weight step."""
        return self._sample(alphas, step, "weights")

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan by which the supernet is validated: the means of the distributions."""
        return {edge: concentration(alpha) / concentration(alpha).sum() for edge, alpha in alphas.items()}

    def _sample(self, alphas: Alphas, step: Step, name: str) -> Plan:
        sizes, flat = [alpha.numel() for alpha in alphas.values()], torch.cat(tuple(alphas.values()))
        # In double precision on the CPU, so that every device and precision sees the same sample.
        concentrations = torch.split(concentration(flat.cpu().double()), sizes)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(generator(self.seed, step, name).get_state())
            samples = [Dirichlet(each, validate_args=False).rsample() for each in concentrations]
        return dict(
            zip(alphas, torch.split(torch.cat(samples).to(flat, non_blocking=flat.is_cuda), sizes), strict=True)
        )


def dirichlet_kl(weight: float) -> Objective:
    """Return a term of an objective that keeps all distributions close to the uniform one (DrNAS, section 2.2)::

        weight · Σ over edges of KL(Dirichlet(elu(α) + 1) ‖ Dirichlet(1))

    Args:
        weight: Weight of the divergence.
    """

    def objective(batch: ArchitectureBatch) -> Tensor:
        divergences = []
        for alpha in batch.architecture.living_alphas().values():
            # Without validation of the arguments, which would synchronize with a GPU.
            uniform = Dirichlet(torch.ones_like(alpha), validate_args=False)
            divergences.append(kl_divergence(Dirichlet(concentration(alpha), validate_args=False), uniform))
        return weight * torch.stack(divergences).sum()

    return objective
