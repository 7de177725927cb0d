"""Rollouts of the proteins that are left out of training, by several weights side by side.

    python -m benchmarks.left_out --weights starmd-mini-v2 starmd-mini-v3 --store rollouts --markdown \\
        --data ../shared/data/md200 ../shared/data/md benchmarks/data/pool

For each protein of benchmarks/data/split.json that there is MD of: valid Cα frames; the displacement within one stride
over MD's (one step); RMSF over MD's and its correlation with MD's, over equal times and pooled over seeds, where there
are ten frames; RMSD to the start in the second half of the rollout, beside the mean and the highest of all MD there is.
MD of some is short, so that "highest" is a low bar there. Those of ``choose`` had a part in choosing checkpoints and
constants.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch

from benchmarks.lib.drawing import Drawing, read_replica, rollouts
from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from benchmarks.reference_augmentation import SPLIT
from openmm_starmd import __version__
from openmm_starmd.analysis.flexibility import FEWEST, correlation, displacement, pooled, rmsf
from openmm_starmd.analysis.network_models import FLOOR, network_rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.geometry.superposition import rmsd
from openmm_starmd.model.weights import load_weights


def reference_md(name: str, folders: list[Path], stride: float) -> list[np.ndarray]:
    """Cα of all replicas of all folders at a stride, those with two frames at least; nm."""
    found = []
    for folder in folders:
        for number in range(1, 10):
            if not (folder / name / f"{name}_prod_R{number}_fit.xtc").exists():
                continue
            read = read_replica(folder / name, number, stride)
            if read is not None and len(read) > 1:
                found.append(read.xyz.astype(np.float64))
    return found


def measure(path: Path, md: list[np.ndarray], weights: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one protein and one set of weights, lengths in Å."""
    structure = mdtraj.load(str(path))
    start = structure.xyz[0, alpha_carbons(structure.topology)].astype(np.float64)
    bonded = bonded_neighbours(structure)
    drawing = Drawing(weights, store=arguments.store)
    drawn = rollouts(path, arguments.frames, range(arguments.seeds), arguments.stride, drawing)
    frames = [x.xyz.astype(np.float64) for x in drawn]
    longest = max(md, key=len)
    result: dict[str, Any] = {
        "valid": float(np.mean([judge(x, bonded).fraction for x in frames])),
        "step": float(
            pooled([displacement(x, 1) for x in frames]).mean() / pooled([displacement(x, 1) for x in md]).mean()
        ),
        "rmsd": [10 * float(rmsd(x[len(x) // 2 :], start).mean()) for x in frames],
        "rmsd_md": 10 * float(np.mean(np.concatenate([rmsd(x, start) for x in md]))),
        "rmsd_md_highest": 10 * float(np.concatenate([rmsd(x, start) for x in md]).max()),
        "md_frames": len(longest),
    }
    if len(longest) >= FEWEST:
        shape = rmsf(longest)
        profile = pooled([rmsf(x[: len(longest)]) for x in frames])
        result |= {
            "r": correlation(profile, shape),
            "r_network": correlation(network_rmsf(start, FLOOR, bonded), shape),
            "amplitude": float(profile.mean() / shape.mean()),
        }
    return result


def table(content: dict[str, Any]) -> str:
    """Markdown: a row for each protein and weights."""
    settings = content["settings"]
    lines = [
        f"{settings['seeds']} seeds of {settings['frames']} frames at {settings['stride']:g} ps. Step, amplitude: over "
        "MD's. RMSD to start: mean of the second half, MD's mean (its highest).",
        "",
        "| protein | role | MD frames | weights | valid % | step | amplitude | r (network) | RMSD to start, Å (MD) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, protein in content["proteins"].items():
        for weights, row in protein["weights"].items():
            shape = f"{row['r']:.2f} ({row['r_network']:.2f})" if "r" in row else "-"
            size = f"{row['amplitude']:.2f}" if "r" in row else "-"
            seen = " (trained on)" if weights in protein["seen"] else ""
            lines.append(
                f"| {name} | {protein['role']} | {row['md_frames']} | {weights}{seen} | {100 * row['valid']:.1f} | "
                f"{row['step']:.2f} | {size} | {shape} | {np.mean(row['rmsd']):.2f} "
                f"({row['rmsd_md']:.2f}, {row['rmsd_md_highest']:.2f}) |"
            )
    for weights in settings["weights"]:
        rows = [p["weights"][weights] for p in content["proteins"].values() if weights in p["weights"]]
        sizes = [row["amplitude"] for row in rows if "r" in row]
        shapes = [row["r"] for row in rows if "r" in row]
        mean = f"{np.mean(sizes):.2f} | {np.mean(shapes):.2f}" if sizes else "- | -"
        lines.append(
            f"| **mean** | | | {weights} | {100 * np.mean([row['valid'] for row in rows]):.1f} | "
            f"{np.mean([row['step'] for row in rows]):.2f} | {mean} | |"
        )
    return "\n".join(lines)


def main() -> None:
    """Draw, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--stride", type=float, default=10.0)
    parser.add_argument("--proteins", nargs="*", default=None)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=RESULTS / "left_out.json")
    add_markdown_option(parser, "left-out")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    split = json.loads(SPLIT.read_text())
    seen: dict[str, set[str]] = {}
    for weights in arguments.weights:
        listing = load_weights(weights).path.parent / "training_data.json"
        data = json.loads(listing.read_text()) if listing.exists() else {"proteins": []}
        seen[weights] = {protein["name"] for protein in [*data["proteins"], *data.get("earlier", [])]}
    content: dict[str, Any] = {
        "version": __version__,
        "settings": {
            "weights": [Path(weights).name for weights in arguments.weights],
            "frames": arguments.frames,
            "seeds": arguments.seeds,
            "stride": arguments.stride,
        },
        "proteins": {},
    }
    for role in ("choose", "report"):
        for name in (item["name"] for item in split[role]):
            if arguments.proteins is not None and name not in arguments.proteins:
                continue
            md = reference_md(name, arguments.data, arguments.stride)
            if not md:
                print(f"{name}: no MD with two frames at {arguments.stride:g} ps")
                continue
            path = next(folder / name / f"{name}.pdb" for folder in arguments.data if (folder / name).is_dir())
            rows = {Path(w).name: measure(path, md, w, arguments) for w in arguments.weights}
            content["proteins"][name] = {
                "role": role,
                "seen": [Path(w).name for w in arguments.weights if name in seen[w]],
                "weights": rows,
            }
            print(name, json.dumps(rows), flush=True)
    write_json(arguments.json, content)
    if arguments.markdown:
        write_block(arguments.markdown, "left-out", table(content))
    print(table(content))


if __name__ == "__main__":
    main()
