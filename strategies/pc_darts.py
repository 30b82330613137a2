"""PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search (Xu et al., ICLR 2020)."""

from __future__ import annotations

from typing import Any

from search_spaces.edges import CellAlphas, NodeAlphas
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.derivation import DerivedEdge, darts, keeps_inputs, softmax, strongest
from strategies.relaxation import EveryEdge
from strategies.relaxation import softmax as softmax_plan
from strategies.topology import each_input


@keeps_inputs
def normalized_edges(cell: CellAlphas, nodes: NodeAlphas, *, inputs: int = 2) -> list[DerivedEdge]:
    """Return the best operation of each of the strongest edges per node, by softmax(α) · softmax(β) (section 3.3).

    Args:
        cell: α of the cell.
        nodes: β of the cell: node -> source -> β.
        inputs: Number of edges kept per node.
    """
    shares = {node: softmax(betas) for node, betas in nodes.items()}
    weights = {
        (source, target): {name: shares[target][str(source)] * weight for name, weight in softmax(alphas).items()}
        for (source, target), alphas in cell.items()
        if str(source) in shares.get(target, {})
    }
    return strongest(weights, inputs)


class PCDARTS(DifferentiableStrategy):
    """The PC-DARTS strategy: candidates run on a part of the channels, and the inputs of a node have weights β.

    Every edge mixes its candidates with the softmax of α, on 1/K of the channels (section 3.2), and every node its
    edges with the softmax of β (section 3.3). A supernet takes less memory, so larger batches fit.

    The defaults are the settings for CIFAR-10 (section 4.2). For ImageNet the paper uses ``partial_channels=2``,
    ``warmup_epochs=35`` of 50 and ``learning_rate=6e-3`` (section 4.3).

    Args:
        partial_channels: K; candidates run on 1/K of the channels of a node. K divides the channels of the space, and
            each part has at least two for the strided ``skip_connect``. 1 runs them on all channels.
        edge_normalization: Whether the inputs of each node have weights β.
        learning_rate, weight_decay, betas, none: See :class:`~strategies.darts.DARTS`.
        alpha_scale: Standard deviation of the normal distribution that α and β are initialized from; 0 for zeros.
        warmup_epochs, gradient_clip_val, recompute: See :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        partial_channels: int = 4,
        edge_normalization: bool = True,
        learning_rate: float = 6e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 15,
        gradient_clip_val: float | None = 5.0,
        recompute: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax_plan),
                optimizer=adam(learning_rate, weight_decay, betas),
                derivation=normalized_edges if edge_normalization else darts,
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
                partial_channels=partial_channels,
                topology=each_input if edge_normalization else None,
            ),
            **common,
        )
