"""Search spaces and strategies of differentiable architecture search, as plugins for NNI."""

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_MODULES = {
    "AmendedDARTS": "strategies.amended_darts",
    "BetaDARTS": "strategies.beta_darts",
    "Cell1dSpace": "search_spaces.cell_1d",
    "DARTS": "strategies.darts",
    "DARTSMinus": "strategies.darts_minus",
    "DARTSPT": "strategies.darts_pt",
    "DARTSPlus": "strategies.darts_plus",
    "DDARTS": "strategies.d_darts",
    "DDartsSpace": "search_spaces.d_darts",
    "DOTS": "strategies.dots",
    "DartOptiSpace": "search_spaces.dartopti",
    "DartsSpace": "search_spaces.darts",
    "DrNAS": "strategies.dr_nas",
    "EDAS": "strategies.edas",
    "FairDARTS": "strategies.fair_darts",
    "FineTunedDartsSpace": "search_spaces.fine_tuned",
    "GDAS": "strategies.gdas",
    "Genotype": "search_spaces.genotype",
    "IDARTS": "strategies.i_darts",
    "OLES": "strategies.oles",
    "PCDARTS": "strategies.pc_darts",
    "PDARTS": "strategies.p_darts",
    "ProgressiveSpace": "search_spaces.progressive",
    "Proxyless": "strategies.proxyless",
    "RobustDARTS": "strategies.robust_darts",
    "SNAS": "strategies.snas",
    "SmoothDARTS": "strategies.smooth_darts",
    "extended_alpha": "search_spaces.extended_alpha",
}
"""Module of each public name."""

__all__ = list(_MODULES)

_ROOT = __path__[0].rpartition("nas_plugins")[0]

# Modules with these common names may exist elsewhere on the path and would fail later in confusing ways.
for _package in ("strategies", "search_spaces"):
    _spec = find_spec(_package)
    if _spec is None or _spec.origin is None or not _spec.origin.startswith(_ROOT):
        raise ImportError(
            f"nas_plugins needs its own package {_package!r}, but Python finds "
            f"{_spec.origin if _spec else 'none'}: rename that module, or put it later on the path"
        )

# NNI 3.0 wraps the classes of torch.nn and warns about those that newer PyTorch has added.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because NNI and PyTorch take seconds to import."""
    if name not in _MODULES:
        raise AttributeError(f"module 'nas_plugins' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return all names, including public ones not yet imported, for completion in interactive shells."""
    return sorted({*globals(), *__all__})
