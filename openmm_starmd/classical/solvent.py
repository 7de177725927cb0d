"""Explicit solvent: a box of water around a protein, and what happens to it as the protein takes other shapes."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import numpy as np
import openmm as mm
from openmm import app, unit
from scipy.spatial import cKDTree

from openmm_starmd.atoms.systems import create_system, refusal
from openmm_starmd.geometry.residues import PEPTIDE_BOND
from openmm_starmd.protein.periodic import make_whole, nearest_image

if TYPE_CHECKING:
    from openmm_starmd.atoms.allatom import AllAtomModel

OVERLAP = 0.24
"""Distance, nm, from a heavy atom of the protein to a water's oxygen under which the water is moved elsewhere."""
CUTOFF = 0.9
"""Of the nonbonded forces in explicit solvent, nm."""
WATERS = frozenset("HOH WAT H2O SOL DOD TIP TIP2 TIP3 TIP4 TIP5 TP3 TP4 TP5 T3P T4P SPC SPCE OPC".split())
_GRID = 0.12  # nm between the places where a water may go


def solvated(
    topology: app.Topology,
    positions: np.ndarray,
    forcefield: app.ForceField,
    *,
    hydrogen_mass: float | None,
    padding: float,
    ionic_strength: float,
    water: str,
    pressure: float | None,
    temperature: float,
) -> tuple[app.Topology, np.ndarray, mm.System]:
    """A protein in a box of water, the protein's atoms first.

    Parameters
    ----------
    topology : openmm.app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    forcefield : openmm.app.ForceField
        Knows protein, water and ions.
    hydrogen_mass : float or None
        amu.
    padding : float
        nm between the protein's bounding sphere and the box.
    ionic_strength : float
        mol/l, besides the ions that neutralise.
    water : str
        Model, as ``Modeller.addSolvent`` knows it.
    pressure : float or None
        bar, of a Monte Carlo barostat.
    temperature : float
        K, of the barostat.

    Returns
    -------
    topology : openmm.app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    system : openmm.System
        PME with a cutoff of `CUTOFF`, rigid water, bonds to hydrogen constrained.
    """
    modeller = app.Modeller(topology, positions * unit.nanometer)
    state = random.getstate()
    random.seed(0)  # Modeller chooses at random which waters become ions
    try:
        modeller.addSolvent(
            forcefield,
            model=water,
            padding=padding * unit.nanometer,
            ionicStrength=ionic_strength * unit.molar,
        )
    except Exception as error:
        raise refusal(error) from error
    finally:
        random.setstate(state)
    width = min(np.diag(modeller.topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)))
    if width < 2 * CUTOFF + 0.1:
        raise ValueError(
            f"with padding {padding:g} nm the box is {width:.2f} nm wide, too narrow for a cutoff of {CUTOFF} nm: "
            f"give padding={padding + CUTOFF + 0.1 - width / 2:.2f} or more"
        )
    mass = None if hydrogen_mass is None else hydrogen_mass * unit.dalton
    system = create_system(
        forcefield,
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=CUTOFF * unit.nanometer,
        constraints=app.HBonds,
        rigidWater=True,
        hydrogenMass=mass,
    )
    if pressure is not None:
        system.addForce(mm.MonteCarloBarostat(pressure * unit.bar, temperature * unit.kelvin))
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)), system


class PeriodicSurroundings:
    """What a protein shares its periodic box with.

    Parameters
    ----------
    model : AllAtomModel
    context : openmm.Context
        Of its atoms.
    backbone_atoms : np.ndarray [N, 3], int
        Atoms N, CA and C of each residue.

    Attributes
    ----------
    vectors : np.ndarray [3, 3]
        Box vectors in rows that segments begin with, nm.
    """

    def __init__(self, model: AllAtomModel, context: mm.Context, backbone_atoms: np.ndarray) -> None:
        self.take_box(context)
        heavy = model.heavy
        protein = set(heavy.tolist())
        molecules = [np.array(molecule) for molecule in context.getMolecules()]
        self._molecules = [molecule for molecule in molecules if not protein.isdisjoint(molecule.tolist())]
        self._movable = movable_molecules(model.topology, model.others)
        movable = set(np.concatenate(self._movable).tolist()) if self._movable else set()
        self._solute = np.array(
            [
                atom.index
                for atom in model.topology.atoms()
                if atom.index not in movable and atom.element not in (None, app.element.hydrogen)
            ]
        )
        self._heavy = heavy
        self._owner = np.array([atom.residue.index for atom in model.protein.frame_topology("heavy").atoms()])
        rank = np.empty(len(model.positions), dtype=int)
        rank[heavy] = np.arange(len(heavy))
        self._backbone = rank[backbone_atoms]
        self._chain = np.array([residue.chain.index for residue in model.protein.topology.residues()])

    def take_box(self, context: mm.Context) -> None:
        """Begin segments with the box that a Context has now."""
        self.vectors = context.getState().getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)

    def displace(self, positions: np.ndarray) -> tuple[np.ndarray, int]:
        """Move solvent out of a new conformation's way: :func:`displace_solvent` in the box of :attr:`vectors`."""
        return displace_solvent(positions, self._solute, self._movable, self.vectors)

    def gather(self, positions: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Each molecule of the protein, whole already, in the image that lies beside the others.

        Parameters
        ----------
        positions : np.ndarray [atoms, 3]
            nm.
        vectors : np.ndarray [3, 3]
            Box vectors in rows that they are in, nm.

        Returns
        -------
        np.ndarray [atoms, 3]
            nm; solvent stays.
        """
        if len(self._molecules) < 2:
            return positions
        heavy = positions[self._heavy]
        moved = np.zeros_like(positions)
        moved[self._heavy] = make_whole(heavy, self._owner, self._backbone, self._chain, vectors, PEPTIDE_BOND) - heavy
        positions = positions.copy()
        for molecule in self._molecules:
            positions[molecule] += moved[np.intersect1d(molecule, self._heavy)[0]]
        return positions


def movable_molecules(topology: app.Topology, others: np.ndarray) -> list[np.ndarray]:
    """Waters and single ions, as arrays of atoms, the heavy one first.

    Parameters
    ----------
    topology : openmm.app.Topology
    others : np.ndarray, int
        Atoms that do not belong to the protein.
    """
    outside = set(others.tolist())
    molecules = []
    for residue in topology.residues():
        atoms = [atom for atom in residue.atoms() if atom.index in outside]
        if len(atoms) == 1 or (atoms and residue.name.strip().upper() in WATERS):
            atoms.sort(key=lambda atom: -(atom.element.atomic_number if atom.element is not None else 0))
            molecules.append(np.array([atom.index for atom in atoms]))
    return molecules


def displace_solvent(
    positions: np.ndarray, solute: np.ndarray, molecules: list[np.ndarray], vectors: np.ndarray
) -> tuple[np.ndarray, int]:
    """Move waters that a new conformation of the protein overlaps to where it has left room.

    Parameters
    ----------
    positions : np.ndarray [atoms, 3]
        nm.
    solute : np.ndarray [heavy atoms of what is not moved], int
    molecules : list of np.ndarray
        As :func:`movable_molecules` gives them.
    vectors : np.ndarray [3, 3]
        Box vectors in rows, nm, in OpenMM's reduced form.

    Returns
    -------
    positions : np.ndarray [atoms, 3]
        nm; each overlapping molecule is moved as a whole to the emptiest place of the box.
    moved : int
        Number of molecules moved.
    """
    heads = np.array([molecule[0] for molecule in molecules], dtype=int)
    if not len(heads):
        return positions, 0
    near = _clearance(positions[heads], positions[solute], vectors, reach=OVERLAP) < OVERLAP
    if not near.any():
        return positions, 0
    counts = np.maximum(np.ceil(np.diag(vectors) / _GRID).astype(int), 1)
    fractions = np.stack(np.meshgrid(*[np.arange(count) / count for count in counts], indexing="ij"), -1)
    places = fractions.reshape(-1, 3) @ vectors
    fixed = positions[np.append(solute, heads[~near])]
    room = _clearance(places, fixed, vectors, reach=0.5)
    positions = positions.copy()
    for index in np.flatnonzero(near):
        best = int(room.argmax())
        molecule = molecules[index]
        positions[molecule] += places[best] - positions[molecule[0]]
        apart = places - places[best]
        apart = apart - nearest_image(apart, vectors) @ vectors
        room = np.minimum(room, np.linalg.norm(apart, axis=-1))
    return positions, int(near.sum())


def _clearance(points: np.ndarray, others: np.ndarray, vectors: np.ndarray, reach: float) -> np.ndarray:
    """Distance [points] to the nearest periodic image of `others`; infinite beyond `reach`, nm."""
    inverse = np.linalg.inv(vectors)
    margin = reach / np.diag(vectors)
    fractions = others @ inverse
    fractions -= np.floor(fractions)
    images = []
    for shift in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        moved = fractions + shift
        images.append(moved[((moved > -2 * margin) & (moved < 1 + 2 * margin)).all(-1)])
    wrapped = points @ inverse
    wrapped -= np.floor(wrapped)
    tree = cKDTree(np.concatenate(images) @ vectors)
    return tree.query(wrapped @ vectors, distance_upper_bound=reach)[0]
