"""Fit the tables of openmm_starmd/atoms/ca_trace.py: how a peptide plane lies among its CA neighbours.

Least squares on the cosine and sine of the plane's turn, over trans peptides of prepared structures; held-out proteins
are left out. Prints the three tables and the errors they leave.

    python -m benchmarks.derive.ca_trace_fit ../shared/data/structures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mdtraj
import numpy as np

from benchmarks.derive.ideal_geometry import LEFT_OUT
from openmm_starmd.atoms.ca_trace import end_features, inner_features, peptide_turn

CIS = 0.34
"""nm; a CA-CA distance under this is a cis peptide."""


def read(path: Path) -> np.ndarray:
    """N, CA and C of each residue, [N, 3, 3], nm."""
    structure = mdtraj.load(str(path), standard_names=False)
    atoms = [{atom.name: atom.index for atom in residue.atoms} for residue in structure.topology.residues]
    return structure.xyz[0][np.array([[here[name] for name in ("N", "CA", "C")] for here in atoms])].astype(float)


def samples(backbone: np.ndarray) -> dict[str, list[tuple[np.ndarray, float]]]:
    """Features and turn of every trans peptide, as one with both neighbours, and as a first and a last one."""
    bonded = np.linalg.norm(backbone[1:, 0] - backbone[:-1, 2], axis=-1) < 0.16
    ca = backbone[:, 1]
    found: dict[str, list[tuple[np.ndarray, float]]] = {"inner": [], "first": [], "last": []}
    for i in range(1, len(ca) - 2):
        if not bonded[i - 1 : i + 2].all() or np.linalg.norm(ca[i + 1] - ca[i]) < CIS:
            continue
        carbon = backbone[i, 2]
        found["inner"].append((inner_features(ca[i - 1 : i + 3]), peptide_turn(ca, carbon, i, bonded)))
        found["last"].append((end_features(ca[i - 1 : i + 2]), peptide_turn(ca, carbon, i, bonded)))
        alone = peptide_turn(ca[i : i + 3], carbon, 0, np.ones(2, bool))
        found["first"].append((end_features(ca[i : i + 3]), alone))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", type=Path)
    everything: dict[str, list[tuple[np.ndarray, float]]] = {"inner": [], "first": [], "last": []}
    for path in sorted(parser.parse_args().structures.glob("*.pdb")):
        if path.stem not in LEFT_OUT:
            for kind, rows in samples(read(path)).items():
                everything[kind] += rows
    for kind, rows in everything.items():
        features, turns = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
        target = np.stack([np.cos(turns), np.sin(turns)], -1)
        table = np.linalg.lstsq(features, target, rcond=None)[0]
        made = features @ table
        error = np.angle(np.exp(1j * (np.arctan2(made[:, 1], made[:, 0]) - turns)))
        rms, median = np.rad2deg(np.sqrt((error**2).mean())), np.rad2deg(np.median(np.abs(error)))
        print(f"{kind}: {len(rows)} peptides, off by {rms:.1f} degrees (rms), {median:.1f} (median)")
        for cosine, sine in table:
            print(f"    [{cosine:.4f}, {sine:.4f}],")


if __name__ == "__main__":
    main()
