"""Which elastic network is the floor of all comparisons: the one whose RMSF is likest that of training-pool MD.

    python -m benchmarks.derive.network_choice

Which network fits a protein best is known only once its motion is: to take the best of several for each protein is
hindsight. So one network with one cutoff is chosen here, by its mean Pearson r over the training proteins whose MD is
kept in ``benchmarks/data`` (80 ps or more each, every frame), and is ``network_models.FLOOR``. Held-out proteins and
those that ``benchmarks/data/split.json`` leaves out have no part in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from benchmarks.lib.drawing import HELD_OUT, load_replica
from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import write_json
from openmm_starmd.analysis.flexibility import correlation, rmsf
from openmm_starmd.analysis.network_models import NETWORKS, network_rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours

SHORTEST = 80.0  # ps of MD
FINEST = 2.0  # ps between frames, the coarsest that is kept


def left_out(data: Path) -> set[str]:
    """Names that may choose nothing."""
    split = json.loads((data / "split.json").read_text())
    return {*HELD_OUT, *(p["name"] for group in ("choose", "report", "also_left_out") for p in split[group])}


def folders(data: Path) -> list[Path]:
    """Of training proteins: those of ``data/training``, and those of `data` whose replica 1 was trained on."""
    found = [path for path in sorted((data / "training").iterdir()) if path.is_dir()]
    found += [data / name for name in ("1vii_A", "5a7u_A")]
    forbidden = left_out(data)
    return [path for path in found if path.name not in forbidden]


def measure(folder: Path) -> dict[str, Any] | None:
    """Figures of one protein; None if its replica 1 is shorter than :data:`SHORTEST`."""
    name = folder.name
    frames = load_replica(folder, 1, FINEST)
    if frames is None or len(frames) * FINEST < SHORTEST:
        return None
    structure = mdtraj.load(str(folder / f"{name}.pdb"))
    start = structure.xyz[0, alpha_carbons(structure.topology)].astype(np.float64)
    bonded, target = bonded_neighbours(structure), rmsf(frames)
    return {
        "residues": len(start),
        "picoseconds": len(frames) * FINEST,
        "correlation": {label: correlation(network_rmsf(start, label, bonded), target) for label in NETWORKS},
    }


def choose(proteins: dict[str, dict[str, Any]]) -> tuple[str, dict[str, float]]:
    """The network with the highest mean correlation, and the means."""
    means = {label: float(np.mean([p["correlation"][label] for p in proteins.values()])) for label in NETWORKS}
    return max(means, key=lambda label: means[label]), means


def table(proteins: dict[str, dict[str, Any]], means: dict[str, float]) -> str:
    """Markdown: r by protein and network, the worst protein of each named."""
    lines = [f"| protein | ps | {' | '.join(NETWORKS)} |", "|---" * (len(NETWORKS) + 2) + "|"]
    for name, result in proteins.items():
        cells = " | ".join(f"{result['correlation'][label]:.2f}" for label in NETWORKS)
        lines.append(f"| {name} ({result['residues']}) | {result['picoseconds']:g} | {cells} |")
    worst = {label: min(proteins, key=lambda name: proteins[name]["correlation"][label]) for label in NETWORKS}
    lines.append(f"| **mean of {len(proteins)}** | | {' | '.join(f'**{means[label]:.3f}**' for label in NETWORKS)} |")
    cells = " | ".join(f"{proteins[worst[label]]['correlation'][label]:.2f} ({worst[label]})" for label in NETWORKS)
    return "\n".join([*lines, f"| worst | | {cells} |"])


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path, default=RESULTS / "network_choice.json")
    arguments = parser.parse_args()
    proteins = {folder.name: found for folder in folders(arguments.data) if (found := measure(folder)) is not None}
    chosen, means = choose(proteins)
    print(table(proteins, means))
    print(f"\nchosen: {chosen}")
    content = {"chosen": chosen, "means": means, "proteins": proteins, "shortest_ps": SHORTEST}
    write_json(arguments.json, content, ensure_ascii=False)


if __name__ == "__main__":
    main()
