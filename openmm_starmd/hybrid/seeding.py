"""Seeds of OpenMM's integrators and forces, so that a run depends on a key alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from openmm import app


def openmm_seed(seed: int, purpose: str) -> int:
    """A seed that OpenMM takes, in [1, 2^31)."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % (2**31 - 1) + 1


def reseed(simulation: app.Simulation, seed: int, parameters: Mapping[str, float]) -> None:
    """Make all that is random from here on depend on `seed` alone.

    OpenMM reads seeds when it makes its kernels, so the Context is reinitialised, which costs milliseconds: positions,
    velocities and the box are to be set after it.

    Parameters
    ----------
    simulation : openmm.app.Simulation
    seed : int
    parameters : mapping of str to float
        Context parameters to set again.
    """
    if hasattr(simulation.integrator, "setRandomNumberSeed"):
        simulation.integrator.setRandomNumberSeed(openmm_seed(seed, "integrator"))
    for index, force in enumerate(simulation.system.getForces()):
        if hasattr(force, "setRandomNumberSeed"):
            force.setRandomNumberSeed(openmm_seed(seed, f"force {index}"))
    simulation.context.reinitialize()
    for name, value in parameters.items():
        simulation.context.setParameter(name, value)
