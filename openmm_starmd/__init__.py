"""STAR-MD, a learned propagator of protein motion, as an OpenMM Simulation.

The public names are imported at first use, so that ``import openmm_starmd`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmm_starmd.atoms.trajectories import backmap_trajectory
    from openmm_starmd.classical.settings import ClassicalSettings
    from openmm_starmd.errors import StarMDWarning
    from openmm_starmd.hybrid.alternation import PolicyError
    from openmm_starmd.hybrid.reporters import VerdictReporter
    from openmm_starmd.integrator import StarMDIntegrator
    from openmm_starmd.model.weights import Weights, load_weights
    from openmm_starmd.propagator_checks import check_propagator
    from openmm_starmd.propagators import LearnedPropagator, Present, Propagator, Proposal
    from openmm_starmd.protein.protein import Protein
    from openmm_starmd.simulation import StarMDSimulation
    from openmm_starmd.training.recipe import train
    from openmm_starmd.training.settings import Recipe
    from openmm_starmd.verdicts.report import Verdict

__all__ = [
    "ClassicalSettings",
    "LearnedPropagator",
    "PolicyError",
    "Present",
    "Propagator",
    "Proposal",
    "Protein",
    "Recipe",
    "StarMDIntegrator",
    "StarMDSimulation",
    "StarMDWarning",
    "Verdict",
    "VerdictReporter",
    "Weights",
    "__version__",
    "backmap_trajectory",
    "check_propagator",
    "load_weights",
    "train",
]

_HOMES = {
    "ClassicalSettings": "classical.settings",
    "LearnedPropagator": "propagators",
    "PolicyError": "hybrid.alternation",
    "Present": "propagators",
    "Propagator": "propagators",
    "Proposal": "propagators",
    "Protein": "protein.protein",
    "Recipe": "training.settings",
    "StarMDIntegrator": "integrator",
    "StarMDSimulation": "simulation",
    "StarMDWarning": "errors",
    "Verdict": "verdicts.report",
    "VerdictReporter": "hybrid.reporters",
    "Weights": "model.weights",
    "backmap_trajectory": "atoms.trajectories",
    "check_propagator": "propagator_checks",
    "load_weights": "model.weights",
    "train": "training.recipe",
}

try:
    __version__ = version("openmm_starmd")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'openmm_starmd' has no attribute {name!r}")
    value = getattr(import_module(f"openmm_starmd.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
