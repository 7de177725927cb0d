"""Back-mapping over every prepared structure: round trips, torsions set and measured, all-atom models, speed.

    python -m benchmarks.backmap ../shared/data/structures --json benchmarks/results/backmap.json

Per structure: RMSD of heavy atoms placed from rigids and torsions, with the input's own and with ideal geometry; chiral
centres of the wrong hand; what is measured after every χ is set by +60 and every ψ by +30 degrees with all behind it
turned, and how far bond lengths and angles moved by that; the same of bond lengths alone where the rings of proline
are asked for +60 too, which they cannot follow; and the all-atom model: whether the force field takes it, and how far
carrying and placing on its own backbone moves an atom.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import mdtraj
import numpy as np
from openmm import app

from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import write_json
from openmm_starmd.analysis.stereochemistry import find_judged, stereochemistry
from openmm_starmd.atoms.allatom import AllAtomModel
from openmm_starmd.atoms.turning import set_torsions
from openmm_starmd.protein.protein import Protein

PSI, CHI = np.deg2rad(30.0), np.deg2rad(60.0)


def read(path: Path) -> Protein:
    """Protein of a PDB file."""
    pdb = app.PDBFile(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Protein.from_openmm(pdb.topology, pdb.positions)


def rmsd(first: np.ndarray, second: np.ndarray) -> float:
    """Å, without superposition."""
    return float(10 * np.sqrt(((first - second) ** 2).sum(-1).mean()))


def internal(topology: app.Topology, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (nm) of bonds and angles (degrees) between bonds, but for disulfides, which χ1 opens."""
    near: dict[int, list[int]] = {atom.index: [] for atom in topology.atoms()}
    bonds = []
    for first, second in topology.bonds():
        if {first.name, second.name} == {"SG"}:
            continue
        bonds.append((first.index, second.index))
        near[first.index].append(second.index)
        near[second.index].append(first.index)
    corners = np.array([(a, b, c) for b, ends in near.items() for i, a in enumerate(ends) for c in ends[i + 1 :]])
    one, two = (xyz[corners[:, k]] - xyz[corners[:, 1]] for k in (0, 2))
    cosine = (one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)
    pairs = np.array(bonds)
    return np.linalg.norm(xyz[pairs[:, 0]] - xyz[pairs[:, 1]], axis=-1), np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def wrong_hands(protein: Protein, xyz: np.ndarray) -> int:
    """Chiral centres of the wrong hand."""
    heavy = mdtraj.Topology.from_openmm(protein.frame_topology("heavy"))
    return int(stereochemistry(mdtraj.Trajectory(xyz[None], heavy), protein.bonded).inverted[0])


def of_right_hand(protein: Protein) -> np.ndarray:
    """Atoms of residues whose CA and CB have the right hand in the input itself; a few inputs hold D-amino acids."""
    topology, xyz = protein.frame_topology("heavy"), protein.backmap("heavy").positions
    centers = find_judged(mdtraj.Topology.from_openmm(topology), protein.bonded).centers
    a, b, c = (xyz[centers[:, k]] - xyz[centers[:, 0]] for k in (1, 2, 3))
    owner = np.array([atom.residue.index for atom in topology.atoms()])
    return ~np.isin(owner, owner[centers[(np.cross(a, b) * c).sum(-1) <= 0, 0]])


def torsions_set(protein: Protein) -> dict[str, float]:
    """Errors of torsions set and measured, and of bonds and angles meanwhile."""
    mapping = protein.backmap("heavy")
    own = mapping.measure(mapping.positions)
    before = internal(mapping.topology, mapping.positions)
    asked = own.copy()
    asked[:, 1] += PSI
    asked[:, 3:] += CHI
    rings = internal(mapping.topology, set_torsions(protein, asked))
    proline = np.array([letter == "P" for letter in protein.sequence.replace("/", "")])
    asked[proline, 3:] = np.nan
    made = set_torsions(protein, asked)
    after = internal(mapping.topology, made)
    error = np.rad2deg(np.abs(np.angle(np.exp(1j * (mapping.measure(made) - asked)))))
    return {
        "psi_error_deg": float(np.nanmax(error[:, 1])),
        "chi_error_deg": float(np.nanmax(np.append(error[:, 3:], 0.0))),
        "bond_change_A": float(10 * np.abs(after[0] - before[0]).max()),
        "angle_change_deg": float(np.abs(after[1] - before[1]).max()),
        "ring_bond_change_A": float(10 * np.abs(rings[0] - before[0]).max()),
        "inverted": wrong_hands(protein, made),
    }


def examine(path: Path, forcefield: app.ForceField) -> dict[str, object]:
    """Everything about one structure."""
    protein = read(path)
    mapping = protein.backmap("heavy")
    placed = {
        geometry: protein.frame_positions(protein.backbone, "heavy", protein.torsions, geometry=geometry)
        for geometry in ("input", "ideal")
    }
    right = of_right_hand(protein)
    began = time.perf_counter()
    model = AllAtomModel.build(protein, forcefield)
    built = time.perf_counter() - began
    system = forcefield.createSystem(model.topology)
    again = model.place(protein.backbone, protein.torsions)
    carried = model.carry(model.positions, protein.backbone)
    return {
        "structure": path.stem,
        "residues": protein.length,
        "prolines": protein.sequence.count("P"),
        "disulfides": sum({a.name, b.name} == {"SG"} for a, b in protein.topology.bonds()),
        "rmsd_input_A": rmsd(placed["input"], mapping.positions),
        "rmsd_ideal_A": rmsd(placed["ideal"], mapping.positions),
        "rmsd_ideal_right_hands_A": rmsd(placed["ideal"][right], mapping.positions[right]),
        "inverted_in_file": wrong_hands(protein, mapping.positions),
        "inverted_input": wrong_hands(protein, placed["input"]),
        "inverted_ideal": wrong_hands(protein, placed["ideal"]),
        "set_torsions": torsions_set(protein),
        "particles": system.getNumParticles(),
        "build_s": round(built, 3),
        "model_moved_A": float(10 * max(np.abs(xyz - model.positions).max() for xyz in (again, carried))),
    }


def speed(path: Path, frames: int) -> dict[str, object]:
    """Seconds for many frames of one protein."""
    protein = read(path)
    backbone = np.repeat(protein.backbone[None], frames, 0)
    torsions = np.repeat(protein.torsions[None], frames, 0)
    protein.frame_positions(protein.backbone, "heavy")
    began = time.perf_counter()
    protein.frame_positions(backbone, "heavy", torsions)
    heavy = time.perf_counter() - began
    model = AllAtomModel.build(protein, app.ForceField("amber14-all.xml"))
    began = time.perf_counter()
    model.place(backbone, torsions)
    return {
        "structure": path.stem,
        "residues": protein.length,
        "frames": frames,
        "heavy_s": round(heavy, 2),
        "all_s": round(time.perf_counter() - began, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS / "backmap.json")
    parser.add_argument("--speed", default="1k6p_A", help="Structure whose placing is timed.")
    arguments = parser.parse_args()
    forcefield = app.ForceField("amber14-all.xml")
    rows, failed = [], {}
    for path in sorted(arguments.structures.glob("*.pdb")):
        try:
            rows.append(examine(path, forcefield))
        except Exception as error:
            failed[path.stem] = f"{type(error).__name__}: {error}"
    worst = {
        name: max(row[name] for row in rows)
        for name in (
            "rmsd_input_A",
            "rmsd_ideal_A",
            "rmsd_ideal_right_hands_A",
            "inverted_ideal",
            "model_moved_A",
            "build_s",
        )
    }
    # what the files themselves have wrong is kept with their own geometry, and put right by the ideal one
    worst["inverted_input_beyond_file"] = max(row["inverted_input"] - row["inverted_in_file"] for row in rows)
    worst["inverted_in_file"] = max(row["inverted_in_file"] for row in rows)
    worst |= {name: max(row["set_torsions"][name] for row in rows) for name in rows[0]["set_torsions"]}
    result = {
        "structures": len(rows),
        "failed": failed,
        "prolines": sum(row["prolines"] for row in rows),
        "disulfides": sum(row["disulfides"] for row in rows),
        "mean_rmsd_ideal_A": float(np.mean([row["rmsd_ideal_A"] for row in rows])),
        "worst": worst,
        "speed": speed(arguments.structures / f"{arguments.speed}.pdb", 1000),
        "rows": rows,
    }
    write_json(arguments.json, result)
    print(f"{len(rows)} structures, {len(failed)} failed {failed or ''}")
    for name, value in worst.items():
        print(f"  worst {name}: {value:.3g}")
    print(f"  speed: {result['speed']}")


if __name__ == "__main__":
    main()
