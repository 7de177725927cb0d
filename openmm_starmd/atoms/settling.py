"""Side chains that get out of each other's way before a minimiser starts, with the backbone held."""

from __future__ import annotations

import numpy as np
import openmm as mm
from openmm import app, unit
from scipy.spatial import cKDTree

from openmm_starmd.selection import label

EVALUATIONS = 25
_LARGEST_MOVE = 0.01  # nm an atom moves at first
_FORCE_TO_MOVE = 1e-5  # nm per kJ/mol/nm


def settle(context: mm.Context, moving: np.ndarray, evaluations: int = EVALUATIONS) -> None:
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
