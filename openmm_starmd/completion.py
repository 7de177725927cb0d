"""Atoms that an input lacks: carbonyl oxygens by geometry, side chains by PDBFixer."""

from __future__ import annotations

import io

import numpy as np
from openmm import Platform, app, unit

from openmm_starmd.geometry.residues import HEAVY_ATOMS
from openmm_starmd.geometry.torsions import axes_of, frame_axes, rotate_about
from openmm_starmd.selection import label

# Carbonyl of a residue that came without O: C=O 1.231 Å, CA-C-O 120.1° (Engh and Huber 2001)
CARBONYL_LENGTH = 0.1231
CARBONYL_ANGLE = np.deg2rad(120.1)
FREE_PSI = np.deg2rad(135.0)


def ideal_oxygen(backbone: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """Where the carbonyl O of each residue belongs.

    Parameters
    ----------
    backbone : np.ndarray [N, 3, 3]
        N, CA, C, nm.
    bonded : np.ndarray [N - 1], bool

    Returns
    -------
    np.ndarray [N, 3]
        nm; in the peptide plane, or at ψ = FREE_PSI where there is no next residue.
    """
    ca, c = backbone[:, 1], backbone[:, 2]
    behind = np.append(bonded, False)
    following = np.concatenate([backbone[1:, 0], backbone[-1:, 0]])
    # without a next N, this residue's own N marks the plane, and O is turned out of it afterwards
    other = np.where(behind[:, None], following, backbone[:, 0])
    plane = frame_axes(ca - c, other - c)
    side = np.where(behind, -1.0, 1.0) * np.sin(CARBONYL_ANGLE)
    direction = np.cos(CARBONYL_ANGLE) * plane[..., 0] + side[:, None] * plane[..., 1]
    oxygen = c + CARBONYL_LENGTH * direction
    turn = np.where(behind, 0.0, FREE_PSI - np.pi)
    return rotate_about(oxygen, c, c - ca, turn)


def missing_heavy_atoms(topology: app.Topology) -> dict[int, list[str]]:
    """Heavy atoms that each residue of `topology` lacks, by residue index; terminal OXT is not counted."""
    missing = {}
    for residue in topology.residues():
        present = {atom.name for atom in residue.atoms()}
        lacking = [name for name in HEAVY_ATOMS.get(residue.name, ()) if name not in present]
        if lacking:
            missing[residue.index] = lacking
    return missing


def build_missing_atoms(topology: app.Topology, positions: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
    """Positions of heavy atoms that side chains lack, from PDBFixer.

    Parameters
    ----------
    topology : app.Topology
        Heavy atoms; every residue has N, CA, C.
    positions : np.ndarray [atoms, 3]
        nm.

    Returns
    -------
    dict of (int, str) to np.ndarray [3]
        By residue index and atom name, nm.
    """
    from pdbfixer import PDBFixer

    wanted = missing_heavy_atoms(topology)
    first = [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()][0]
    anchor = positions[[first["N"], first["CA"], first["C"]]]
    # in the axes of the first residue, so that a rotated input is completed alike
    axes = axes_of(anchor)
    text = io.StringIO()
    app.PDBFile.writeFile(topology, (positions - anchor[1]) @ axes * unit.nanometer, text)
    text.seek(0)
    # the Reference platform gives the same bits in every process, which an exact restart needs
    fixer = PDBFixer(pdbfile=text, platform=Platform.getPlatformByName("Reference"))
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    fixer.missingTerminals = {}
    try:
        fixer.addMissingAtoms(seed=1)
    except Exception as error:
        where = ", ".join(label(residue) for residue in topology.residues() if residue.index in wanted)
        raise ValueError(
            f"heavy atoms are missing in {where}, and PDBFixer could not add them ({error}): complete the structure "
            'first, or ask for atoms="backbone"'
        ) from error
    built = np.array(fixer.positions.value_in_unit(unit.nanometer)) @ axes.T + anchor[1]
    return {
        (residue.index, atom.name): built[atom.index]
        for residue in fixer.topology.residues()
        for atom in residue.atoms()
        if atom.name in wanted.get(residue.index, ())
    }
