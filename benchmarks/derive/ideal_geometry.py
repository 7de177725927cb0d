"""Derive the table of openmm_starmd/geometry/ideal.py: where the heavy atoms of a residue lie in its rigid groups.

The numbers are medians over the residues of prepared structures, so they owe nothing to other programs' tables.
Held-out proteins are left out. Prints the table's text.

    python -m benchmarks.derive.ideal_geometry ../shared/data/structures
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import mdtraj
import numpy as np

from benchmarks.lib.drawing import HELD_OUT
from openmm_starmd.geometry.residues import CHI_ATOMS, HEAVY_ATOMS, atoms_moved_by_chi
from openmm_starmd.geometry.torsions import axes_of, dihedral, frame_axes, rotate_about

FLAT = 0.002
"""nm; what lies no further from a symmetry plane is put in it."""
LEFT_OUT = (*HELD_OUT, "trpcage_A", "2ysf_A", "2k1b_A")
"""Held-out proteins and near copies of them."""


def local_positions(
    name: str, atoms: dict[str, np.ndarray], following: np.ndarray
) -> dict[tuple[str, int], np.ndarray]:
    """Atoms of one residue in the axes of their groups, every torsion turned back to 0; `following` is the next N."""
    own = np.array([atoms["N"], atoms["CA"], atoms["C"]])
    axes = axes_of(own)
    found = {(atom, 0): axes.T @ (atoms[atom] - atoms["CA"]) for atom in ("N", "CA", "C", "CB") if atom in atoms}
    quartets = [(("N", "CA", "C"), own, dihedral(*own, following), ("O",))]
    for k, (a, b, c, d) in enumerate(CHI_ATOMS[name]):
        deeper = atoms_moved_by_chi(name, k + 1) if k + 1 < len(CHI_ATOMS[name]) else ()
        members = tuple(atom for atom in atoms_moved_by_chi(name, k) if atom not in deeper)
        corners = np.array([atoms[a], atoms[b], atoms[c]])
        quartets.append(((a, b, c), corners, dihedral(*corners, atoms[d]), members))
    for group, (_, (first, near, far), angle, members) in enumerate(quartets, start=1):
        frame = frame_axes(far - near, first - near)
        for atom in members:
            turned = rotate_about(atoms[atom], far, far - near, -angle)
            found[atom, group] = frame.T @ (turned - far)
    return found


def gather(folder: Path) -> dict[str, dict[tuple[str, int], list[np.ndarray]]]:
    """Local positions of all residues of the structures in `folder`, by residue name and (atom, group)."""
    table: dict[str, dict[tuple[str, int], list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.pdb")):
        if path.stem in LEFT_OUT:
            continue
        structure = mdtraj.load(str(path), standard_names=False)
        xyz = structure.xyz[0].astype(np.float64)
        residues = list(structure.topology.residues)
        for residue, behind in pairwise(residues):
            atoms = {atom.name: xyz[atom.index] for atom in residue.atoms}
            after = {atom.name: xyz[atom.index] for atom in behind.atoms}
            complete = all(atom in atoms for atom in HEAVY_ATOMS.get(residue.name, ("none",)))
            if not complete or np.linalg.norm(after["N"] - atoms["C"]) > 0.16:
                continue
            for key, place in local_positions(residue.name, atoms, after["N"]).items():
                table[residue.name][key].append(place)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", type=Path)
    table = gather(parser.parse_args().structures)
    for name in HEAVY_ATOMS:
        entries = sorted(table[name].items(), key=lambda entry: HEAVY_ATOMS[name].index(entry[0][0]))
        print(f"{name}")
        for (atom, group), places in entries:
            x, y, z = (value if abs(value) > FLAT else 0.0 for value in np.median(places, axis=0))
            print(f"{atom} {group} {x:.5f} {y:.5f} {z:.5f}")


if __name__ == "__main__":
    main()
