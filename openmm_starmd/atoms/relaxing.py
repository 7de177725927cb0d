"""Minimisation of all-atom frames: overlaps relieved first, the backbone held where it was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openmm as mm
from openmm import app, unit
from scipy.spatial import cKDTree

from openmm_starmd.atoms.allatom import AllAtomModel
from openmm_starmd.atoms.systems import obc2_system
from openmm_starmd.protein.selection import label

STIFFNESS = 1000.0
"""kJ/mol/nm^2; an atom pulled away by kT sits 0.7 Å off."""
EVALUATIONS = 25
"""Of the forces, by which overlaps of placed side chains are gone."""
_LARGEST_MOVE = 0.01  # nm an atom moves at first
_FORCE_TO_MOVE = 1e-5  # nm per kJ/mol/nm


def relieve_overlaps(context: mm.Context, moving: np.ndarray, evaluations: int = EVALUATIONS) -> None:
    """Go down the gradient with bounded moves, some atoms only.

    A frame whose side chains were placed from torsions has overlaps of 1e6 kJ/mol, on which L-BFGS spends tens of
    iterations and drags the backbone along. Moves of bounded length along the force remove them in some twenty
    evaluations of it.

    Parameters
    ----------
    context : openmm.Context
    moving : np.ndarray [particles], bool
        Particles that may move; constraints may shift what they are bonded to a little.
    evaluations : int
        Of the forces.
    """
    energy, forces, positions = _evaluate(context)
    largest, per_force = _LARGEST_MOVE, _FORCE_TO_MOVE
    for _ in range(evaluations):
        size = np.linalg.norm(forces, axis=-1, keepdims=True)
        step = np.minimum(size * per_force, largest) * moving[:, None] / np.maximum(size, 1e-12)
        context.setPositions(positions + step * forces)
        context.applyConstraints(1e-4)
        context.computeVirtualSites()
        tried = _evaluate(context)
        if tried[0] < energy or not np.isfinite(energy):
            energy, forces, positions = tried
            largest, per_force = min(1.1 * largest, 2 * _LARGEST_MOVE), 1.3 * per_force
        else:
            largest, per_force = 0.5 * largest, 0.4 * per_force
    context.setPositions(positions)


def _evaluate(context: mm.Context) -> tuple[float, np.ndarray, np.ndarray]:
    state = context.getState(energy=True, forces=True, positions=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
    return (
        state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole),
        np.clip(np.nan_to_num(forces), -1e30, 1e30),
        state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
    )


def closest_atoms(topology: app.Topology, positions: np.ndarray, heavy: np.ndarray) -> str:
    """Which atoms lie closest without being bonded, as a sentence.

    Parameters
    ----------
    topology : openmm.app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    heavy : np.ndarray, int
        The atoms looked at.
    """
    if not np.isfinite(positions[heavy]).all():
        return "Its positions are not finite."
    atoms = list(topology.atoms())
    bonded = {tuple(sorted((first.index, second.index))) for first, second in topology.bonds()}
    near = cKDTree(positions[heavy]).query_pairs(0.2, output_type="ndarray")
    pairs = np.array([pair for pair in np.sort(heavy[near], 1).tolist() if tuple(pair) not in bonded])
    if not len(pairs):
        return "No two heavy atoms of the protein that are not bonded lie under 2 Å."
    distances = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=-1)
    first, second = (atoms[index] for index in pairs[distances.argmin()])
    return (
        f"The closest atoms: {label(first.residue)} {first.name} and {label(second.residue)} {second.name}, "
        f"{10 * distances.min():.2f} Å apart."
    )


@dataclass(frozen=True)
class Relaxed:
    """A minimised frame.

    Attributes
    ----------
    positions : np.ndarray [atoms, 3]
        nm.
    before, after : float
        Energy of the force field without the restraints, kJ/mol.
    moved : float
        RMSD of N, CA and C, as they are, without superposition, nm.
    """

    positions: np.ndarray
    before: float
    after: float
    moved: float


class Relaxer:
    """Minimises frames of one all-atom model in implicit solvent (OBC2), N, CA and C under harmonic restraints.

    Overlaps of side chains are relieved first, with N, CA and C where they are: they would cost the minimiser its
    iterations.

    Parameters
    ----------
    model : AllAtomModel
    forcefield : app.ForceField
        Without an implicit solvent of its own.
    iterations : int
        At most, per frame; 0 goes on to convergence (10 kJ/mol/nm), which takes long.
    stiffness : float
        Of the restraints, kJ/mol/nm^2.
    platform : str, optional
        OpenMM platform; the fastest by default.
    """

    def __init__(
        self,
        model: AllAtomModel,
        forcefield: app.ForceField,
        *,
        iterations: int = 100,
        stiffness: float = STIFFNESS,
        platform: str | None = None,
    ) -> None:
        if iterations < 0:
            raise ValueError(f"iterations is {iterations}; 0 is to convergence, more is a limit")
        if not (np.isfinite(stiffness) and stiffness >= 0):
            raise ValueError(f"stiffness is {stiffness}; it must be 0 or more, kJ/mol/nm^2")
        self._iterations = iterations
        system = obc2_system(model.topology, forcefield, None)
        self._model = model
        self._held = model.heavy[model.protein.backmap("heavy").backbone].ravel()
        self._restraint = mm.CustomExternalForce("0.5*k*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
        self._restraint.addGlobalParameter("k", stiffness)
        for name in ("x0", "y0", "z0"):
            self._restraint.addPerParticleParameter(name)
        for atom in self._held:
            self._restraint.addParticle(int(atom), [0.0, 0.0, 0.0])
        self._free = np.ones(len(model.positions), dtype=bool)
        self._free[self._held] = False
        self._restraint.setForceGroup(31)
        system.addForce(self._restraint)
        integrator = mm.VerletIntegrator(0.001)
        try:
            options = () if platform is None else (mm.Platform.getPlatformByName(platform),)
            self._context = mm.Context(system, integrator, *options)
        except mm.OpenMMException as error:
            names = ", ".join(mm.Platform.getPlatform(i).getName() for i in range(mm.Platform.getNumPlatforms()))
            raise ValueError(f"no Context on the platform {platform}: {error} (there are {names})") from error

    def relax(self, positions: np.ndarray) -> Relaxed:
        """Minimise one frame.

        Parameters
        ----------
        positions : np.ndarray [atoms, 3]
            Of the model, nm.

        Returns
        -------
        Relaxed

        Raises
        ------
        ValueError
            If the force field makes no number of it; names the closest atoms.
        """
        for index, atom in enumerate(self._held):
            self._restraint.setParticleParameters(index, int(atom), positions[atom])
        self._restraint.updateParametersInContext(self._context)
        self._context.setPositions(positions)
        before = self._energy()
        try:
            relieve_overlaps(self._context, self._free)
            mm.LocalEnergyMinimizer.minimize(self._context, 10.0, self._iterations)
            after = self._energy()
        except mm.OpenMMException as error:
            raise ValueError(f"it cannot be minimised ({error}). {self._closest(positions)}") from error
        if not np.isfinite(after):
            raise ValueError(f"its energy stays {after}, minimised or not. {self._closest(positions)}")
        state = self._context.getState(positions=True)
        relaxed = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        moved = float(np.sqrt(((relaxed[self._held] - positions[self._held]) ** 2).sum(-1).mean()))
        return Relaxed(np.array(relaxed), before, after, moved)

    def _closest(self, positions: np.ndarray) -> str:
        return closest_atoms(self._model.topology, positions, self._model.heavy)

    def _energy(self) -> float:
        state = self._context.getState(energy=True, groups=set(range(31)))
        return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
