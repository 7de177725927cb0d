"""What the elastic prior costs: the eigenvalue problem of a protein, and a frame beside weights without it.

    python -m benchmarks.elastic_cost --weights starmd-mini-v2 starmd-mini-v3 --markdown

The eigenvalue problem is dense and solved once a reference structure: at the start of a simulation, and for deformed
references in training. Sizes beyond the structures at hand are copies of one side by side, as chains. Frames are drawn
in turn by each of the weights, so that a busy machine slows all; ratios count, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch
from openmm.app import PDBFile

from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from openmm_starmd import Protein, __version__
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours
from openmm_starmd.model.elastic import elastic_modes
from openmm_starmd.model.weights import load_weights
from openmm_starmd.rollout import make_rollout

SIZES = (35, 150, 400, 800)
SPACING = 3.0  # nm between copies


def network_of(size: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Cα [size, 3] in nm and bonds of copies of a structure on a grid, cut to `size` residues."""
    structure = mdtraj.load(str(path))
    alphas = structure.xyz[0, alpha_carbons(structure.topology)].astype(np.float64)
    bonded = bonded_neighbours(structure)
    copies = -(-size // len(alphas))
    side = int(np.ceil(copies ** (1 / 3)))
    shifts = SPACING * np.array(list(np.ndindex(side, side, side)), dtype=float)[:copies]
    bonds = np.concatenate([np.append(bonded, False)] * copies)
    return (alphas[None] + shifts[:, None]).reshape(-1, 3)[:size], bonds[: size - 1]


def eigenproblem(size: int, path: Path, repeats: int) -> float:
    """Median seconds of one eigenvalue problem."""
    alphas, bonded = network_of(size, path)
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        elastic_modes(alphas, bonded)
        found.append(time.process_time() - begun)
    return statistics.median(found)


def frames(path: Path, names: list[str], count: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds a frame, one list a set of weights, one value a round."""
    pdb = PDBFile(str(path))
    protein = Protein.from_openmm(pdb.topology, pdb.positions)
    loaded = {name: load_weights(name) for name in names}
    runs = {name: make_rollout(protein, w, stride=10.0, seed=0, device="cpu", steps=10) for name, w in loaded.items()}
    for run in runs.values():
        for _ in range(8):  # a full history
            run.step()
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.process_time()
            for _ in range(count):
                run.step()
            found[name].append((time.process_time() - begun) / count)
    return found


def report(content: dict[str, Any]) -> str:
    """The block of docs/results.md."""
    names = content["settings"]["weights"]
    lines = [
        f"Frames of 10 network calls each, CPU time of one thread, {content['settings']['rounds']} rounds in turn; "
        "median ratio (lowest to highest).",
        "",
        f"| residues | {names[1]} / {names[0]} |",
        "|---|---|",
    ]
    for row in content["frames"]:
        ratios = [second / first for first, second in zip(row[names[0]], row[names[1]], strict=True)]
        lines.append(
            f"| {row['residues']} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    lines += ["", "The eigenvalue problem, once a reference, over a frame of the smallest protein:", ""]
    unit = statistics.median(content["frames"][0][names[1]])
    cells = ", ".join(f"{size} residues {seconds / unit:.2g}" for size, seconds in content["eigenproblem"].items())
    return "\n".join([*lines, cells + "."])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs=2, default=["starmd-mini-v2", "starmd-mini-v3"])
    parser.add_argument("--structures", type=Path, nargs="+", help="PDB files; those of benchmarks/data by default")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS / "elastic_cost.json")
    add_markdown_option(parser, "elastic-cost")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    paths = arguments.structures or [DATA / name / f"{name}.pdb" for name in ("1vii_A", "6mrr_A")]
    big = paths[-1]
    content: dict[str, Any] = {
        "version": __version__,
        "settings": {"weights": [Path(w).name for w in arguments.weights], "rounds": arguments.rounds},
        "eigenproblem": {str(size): eigenproblem(size, big, 5 if size < 400 else 2) for size in SIZES},
        "frames": [],
    }
    for path in paths:
        found = frames(path, arguments.weights, arguments.count, arguments.rounds)
        pdb = PDBFile(str(path))
        length = Protein.from_openmm(pdb.topology, pdb.positions).length
        content["frames"].append({"residues": length} | {Path(name).name: values for name, values in found.items()})
    write_json(arguments.json, content)
    if arguments.markdown:
        write_block(arguments.markdown, "elastic-cost", report(content))
    print(report(content))


if __name__ == "__main__":
    main()
