"""A strategy of parts that act over a search: a temperature, a pruning, and a stop rule."""

from strategies.base import DifferentiableStrategy, adam
from strategies.beta_darts import beta_decay
from strategies.epoch import Epoch
from strategies.objective import evaluator_loss, total
from strategies.relaxation import Alphas, Plan, Step, softmax


class CoolingDARTS(DifferentiableStrategy):
    """DARTS whose softmax gets colder, whose weakest candidates die, and which ends once all edges are decided.

    Args:
        temperature: Temperature of the softmax in the first epoch; it falls linearly to a tenth.
        keep: Candidates of an edge that live on after half of the epochs.
        decided: Weight of the strongest candidate from which on an edge is decided.
    """

    def __init__(self, temperature: float = 1.0, keep: int = 2, decided: float = 0.9) -> None:
        def weaker_half(epoch: Epoch) -> None:
            if epoch.step.progress >= 0.5:
                for edge, alphas in epoch.architecture.table().items():
                    best = sorted(alphas, key=alphas.__getitem__, reverse=True)[:keep]
                    epoch.architecture.prune(edge, keep=map(epoch.architecture.candidates[edge].index, best))

        def all_decided(epoch: Epoch) -> bool:
            weights = softmax(epoch.architecture.living_alphas())
            return all(float(weight.detach().max()) >= decided for weight in weights.values())

        super().__init__(
            relaxation=ColderSoftmax(temperature),
            optimizer=adam(3e-3, weight_decay=0.0, betas=(0.5, 0.999)),
            objective=total(evaluator_loss, beta_decay(1.0)),
            pruning=weaker_half,
            stop=all_decided,
        )


class ColderSoftmax:
    """The softmax of α divided by a temperature that falls with the epochs.

    Args:
        temperature: Temperature in the first epoch.
    """

    activation = "softmax"

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients flow through it to α."""
        temperature = self.temperature * (1 - 0.9 * step.progress)
        return softmax({edge: alpha / temperature for edge, alpha in alphas.items()})

    weights = architecture

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan by which the supernet is validated."""
        return softmax(alphas)
