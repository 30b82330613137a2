"""Search spaces and strategies of four papers as plugins for NNI's neural architecture search."""

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_spaces.d_darts import DDartsSpace
    from search_spaces.dartopti import DartOptiSpace
    from search_spaces.darts import DartsSpace
    from search_spaces.extended_alpha import extended_alpha
    from search_spaces.fine_tuned import FineTunedDartsSpace
    from search_spaces.genotype import Genotype
    from strategies.d_darts import DDARTS
    from strategies.darts import DARTS
    from strategies.edas import EDAS
    from strategies.fair_darts import FairDARTS

__all__ = [
    "DARTS",
    "DDARTS",
    "EDAS",
    "DDartsSpace",
    "DartOptiSpace",
    "DartsSpace",
    "FairDARTS",
    "FineTunedDartsSpace",
    "Genotype",
    "extended_alpha",
]

_HOME = {
    "DARTS": "strategies.darts",
    "DDARTS": "strategies.d_darts",
    "EDAS": "strategies.edas",
    "DDartsSpace": "search_spaces.d_darts",
    "DartOptiSpace": "search_spaces.dartopti",
    "DartsSpace": "search_spaces.darts",
    "FairDARTS": "strategies.fair_darts",
    "FineTunedDartsSpace": "search_spaces.fine_tuned",
    "Genotype": "search_spaces.genotype",
    "extended_alpha": "search_spaces.extended_alpha",
}
_HERE = __path__[0].rpartition("nas_plugins")[0]

for _floor in ("strategies", "search_spaces"):
    _spec = find_spec(_floor)
    if _spec is None or _spec.origin is None or not _spec.origin.startswith(_HERE):
        raise ImportError(
            f"nas_plugins needs its own package {_floor!r}, but Python finds "
            f"{_spec.origin if _spec else 'none'}: rename that module, or put it later on the path"
        )

# NNI 3.0 wraps the classes of torch.nn and warns of those that newer PyTorch has added.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used: NNI and PyTorch take seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'nas_plugins' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names too, imported or not: what an interactive shell completes."""
    return sorted({*globals(), *__all__})
