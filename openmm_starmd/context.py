"""System and Context of learned frames: what frames do not have is said, what is foreign is refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import openmm as mm
from openmm import app, unit

from openmm_starmd.history import IDENTITY
from openmm_starmd.quantities import as_array


class FrameContext(mm.Context):
    """What :meth:`StarMDIntegrator.bind` makes of its Context."""

    def getState(self, *args: Any, **kwargs: Any) -> mm.State:
        """OpenMM's own; asking for energies, forces or velocities warns once."""
        asked = {name.removeprefix("get").lower() for name, value in kwargs.items() if value}
        # with the integrator's parameters it is a State to resume from, which holds velocities by custom
        if asked & {"energy", "forces", "velocities"} and "integratorparameters" not in asked:
            self.getIntegrator().warn_no_forces()
        return super().getState(*args, **kwargs)

    def setPositions(self, positions: Any) -> None:
        """Set the positions [atoms, 3], bare numbers in nm; the next step starts a new history from them.

        Of weights with a lasting reference they are the new one, with the χ angles of heavy atoms; frames without side
        chains keep those they had, which ``simulation.setPositions()`` replaces.
        """
        values = as_array(positions)
        self.getIntegrator().accept_positions(values)
        super().setPositions(values)
        self.getIntegrator().took_positions(values)
        self.getIntegrator().forget_states()

    def setVelocities(self, velocities: Any) -> None:
        """Warn: velocities stay zero."""
        self.getIntegrator().warn_no_forces()

    def setVelocitiesToTemperature(self, *args: Any, **kwargs: Any) -> None:
        """Warn: velocities stay zero."""
        self.getIntegrator().warn_no_forces()

    def reinitialize(self, preserveState: bool = False) -> None:
        """OpenMM's own; without `preserveState` positions must be set again, and a new history starts from them."""
        if not preserveState:
            self.getIntegrator().require_no_segment()
        super().reinitialize(preserveState)
        if not preserveState:
            self.getIntegrator().forget_history()
            self.getIntegrator().forget_states()

    def loadCheckpoint(self, checkpoint: bytes) -> None:
        """Load what createCheckpoint() gave; a foreign one raises a ValueError and changes nothing."""
        self.load_guarded(lambda: mm.Context.loadCheckpoint(self, checkpoint), whole=True)

    def setState(self, state: mm.State) -> None:
        """Load a State; a foreign one raises a ValueError and changes nothing.

        Without integrator parameters it has no history, and a new one starts from its positions.
        """
        self.load_guarded(lambda: mm.Context.setState(self, state), whole=False)

    def load_guarded(self, load: Callable[[], None], *, whole: bool) -> None:
        """Call `load`, and roll back unless it leaves the state of a simulation like this one.

        Parameters
        ----------
        load : callable
            Changes this Context and its integrator's variables, perhaps halfway.
        whole : bool
            Whether a frame history must be among what is loaded.
        """
        integrator = self.getIntegrator()
        integrator.require_no_segment()
        snapshot = self.createCheckpoint()
        try:
            for name in IDENTITY:
                integrator.setGlobalVariableByName(name, 0)
            load()
            if not any(integrator.getGlobalVariableByName(name) for name in IDENTITY):
                if whole:
                    raise ValueError(
                        "this holds no frame history, so no StarMDSimulation saved it. To start from its positions, "
                        "give them to simulation.setPositions()"
                    )
                for name, value in integrator.identity.items():
                    integrator.setGlobalVariableByName(name, value)
                positions = mm.Context.getState(self, positions=True).getPositions(asNumpy=True)
                integrator.accept_positions(positions.value_in_unit(unit.nanometer))
                integrator.took_positions(positions.value_in_unit(unit.nanometer))
            integrator.require_identity()
        except BaseException as error:
            mm.Context.loadCheckpoint(self, snapshot)
            if isinstance(error, (mm.OpenMMException, TypeError)):
                # weights of another kind keep other variables, which OpenMM finds before anyone can compare digests
                raise ValueError(
                    f"not a state of this StarMDSimulation: {error}. Build it from the same input file, weights and "
                    "settings, then load"
                ) from error
            raise
        integrator.forget_states()


def frame_system(topology: app.Topology, box: Any) -> mm.System:
    """System of free particles for frames.

    Parameters
    ----------
    topology : openmm.app.Topology
    box : Quantity or None
        Periodic box vectors.

    Returns
    -------
    openmm.System
        Real masses, no energy. Zero-strength bonds make each chain one molecule, or wrapping into the box would
        tear it.
    """
    system = mm.System()
    chains = mm.HarmonicBondForce()
    chains.setUsesPeriodicBoundaryConditions(box is not None)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    for chain in topology.chains():
        members = [atom.index for atom in chain.atoms()]
        for first, second in pairwise(members):
            chains.addBond(first, second, 0.15, 0.0)
    system.addForce(chains)
    return system
