"""A strategy: DARTS with one more loss, by which every edge comes to a decision."""

import torch

from strategies.base import DifferentiableStrategy, adam
from strategies.objective import ArchitectureBatch, Objective, evaluator_loss, total
from strategies.relaxation import EveryEdge, softmax


class DecidedDARTS(DifferentiableStrategy):
    """DARTS that also minimizes the entropy of its softmax: a derived network then differs less from the supernet.

    Args:
        weight: of the entropy; with 0 this is DARTS.
        learning_rate: of Adam for α.
    """

    def __init__(self, weight: float = 0.1, learning_rate: float = 3e-4) -> None:
        super().__init__(
            relaxation=EveryEdge(softmax),
            objective=total(evaluator_loss, entropy(weight)),
            optimizer=adam(learning_rate, weight_decay=1e-3, betas=(0.5, 0.999)),
        )


def entropy(weight: float) -> Objective:
    """The entropy of the softmax of α, in nats, on the average of all edges, times its weight.

    Raises:
        ValueError: the weight is negative.
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight: {weight} should be at least 0")

    def objective(batch: ArchitectureBatch) -> torch.Tensor:
        edges = softmax(batch.architecture.living_alphas()).values()
        return weight * torch.stack([torch.special.entr(edge).sum() for edge in edges]).mean()

    return objective
