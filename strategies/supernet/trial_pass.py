"""Trial passes, which check that a supernet can run all its candidates before a search takes its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from strategies.relaxation import Plan, UnfitSettingError, softmax
from strategies.supernet.architecture import Architecture
from strategies.supernet.shared_input import copied
from strategies.topology import is_node


class UnfitCandidatesError(ValueError):
    """The candidates of an edge do not fit together."""


def check_candidates(architecture: Architecture, run: Callable[[], Any], weights: Iterable[Tensor] = ()) -> None:
    """Run the first and the last candidates of all edges, and then all candidates, forwards and backwards.

    Args:
        architecture: α and the plan that the supernet follows; the plan is restored.
        run: Function that returns the output of the supernet by the current plan: tensors, in any structure.
        weights: Weights that the output is differentiated for, besides α.

    Raises:
        UnfitCandidatesError: The passes fail because of one edge, which the message names.
        Exception: They fail for another reason.
    """
    before = architecture.plan
    # The α of the inputs of nodes are left out; these inputs are then not weighted.
    alphas = {edge: alpha for edge, alpha in architecture.alphas.items() if not is_node(edge)}
    trained = [tensor for tensor in (*alphas.values(), *weights) if tensor.requires_grad]

    def error_of(plan: Plan) -> Exception | None:
        architecture.plan = plan
        try:
            _differentiate(run(), trained)
        except (torch.OutOfMemoryError, UnfitSettingError):  # an error that no edge has caused
            raise
        except Exception as error:  # candidates of a user may raise any exception
            return error
        return None

    first: Plan = {edge: (0,) for edge in alphas}
    last: Plan = {edge: (len(alpha) - 1,) for edge, alpha in alphas.items()}
    try:
        failure = next(filter(None, map(error_of, (first, last, softmax(alphas)))), None)
        if failure is None:
            return
        for edge, alpha in alphas.items():
            if error := error_of({**first, **softmax({edge: alpha})}):
                if error_of(first) is None:
                    reason = str(_cause(error)).partition("\n")[0]
                    raise UnfitCandidatesError(f"the candidates of {edge!r} do not fit together: {reason}") from failure
                break
        raise failure
    finally:
        architecture.plan = before


def _cause(error: BaseException) -> BaseException:
    """Return the root cause of an error, because NNI's error for a failed sum does not name the reason."""
    return error if error.__cause__ is None else _cause(error.__cause__)


def _differentiate(output: Any, parameters: list[Tensor]) -> None:
    results = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if results and parameters:
        torch.autograd.grad(results, parameters, [torch.ones_like(result) for result in results], allow_unused=True)


class _InputSeen(Exception):
    """Exception that ends a step at the call of the model and holds the arguments of the call."""


def input_of(model: nn.Module, step: Callable[[], object]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments with which a step calls a model, where the step is ended; None if it does not call it."""

    def end(model: nn.Module, args: Any, kwargs: Any) -> None:
        raise _InputSeen(args, kwargs)

    handle = model.register_forward_pre_hook(end, with_kwargs=True)
    try:
        step()
    except _InputSeen as seen:
        args, kwargs = seen.args
        return args, kwargs
    finally:
        handle.remove()
    return None


def first_samples(values: Any, count: int = 2) -> Any:
    """Return copies of the first samples of all tensors if these are batches of one size, else of whole tensors."""
    sizes = {len(leaf) for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.dim() > 0}

    def first(leaf: Any) -> Any:
        return leaf[:count] if isinstance(leaf, Tensor) and leaf.dim() > 0 and len(sizes) == 1 else leaf

    return copied(tree_map(first, values))
