"""How much wider the elastic prior must be for frames to be drawn as wide as MD's, network and all.

    python -m benchmarks.derive.spread RUN/weights --data ../shared/data/md ../shared/data/md200 benchmarks/data \\
        benchmarks/data/training benchmarks/data/pool

The numbers of the prior are fitted to MD, but a network that is trained to least squares takes some of the width off
again. Rollouts of a stride of 10 ps are compared with MD: the displacement over one stride, mean over residues, and the
logarithm of their ratio. Judged are the proteins of ``choose`` (benchmarks/data/split.json) and the folded ones that
were trained on, each protein once, at several additions to the logarithm of the amplitude; none that ``report`` or the
benchmarks name. Prints the addition at which the mean logarithm is zero, and with ``--write`` makes it
``elastic.widening`` in config.json.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from openmm.app import PDBFile

from benchmarks.lib.drawing import load_replica
from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import write_json
from benchmarks.reference_augmentation import SPLIT, not_trained_on
from openmm_starmd.analysis.flexibility import displacement, pooled
from openmm_starmd.analysis.validity import judge
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import load_weights, save_weights
from openmm_starmd.protein.protein import Protein
from openmm_starmd.rollout import features_of, make_rollout

STRIDE = 10.0
FOLDED = (38, 100)
"""Residues of the training proteins that are judged, fewest and most."""
LOOSEST = 0.5
"""Looseness (openmm_starmd.model.elastic) up to which one counts as folded."""


def md_of(name: str, folders: Sequence[Path]) -> list[np.ndarray]:
    """Cα of all replicas there are, a frame every ps, at least 20 of them."""
    found = []
    for folder in folders:
        for number in (1, 2):
            if (folder / name).is_dir() and (frames := load_replica(folder / name, number, 1.0)) is not None:
                found.append(frames)
    return [frames for frames in found if len(frames) >= 20]


def widened(network: Network, addition: float) -> None:
    """Give the prior of `network` another width."""
    network.config = replace(network.config, elastic=replace(network.config.elastic, widening=addition))


def main() -> None:
    """Draw, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--additions", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--most", type=int, default=16, help="training proteins at most")
    parser.add_argument("--json", type=Path, default=RESULTS / "spread.json")
    parser.add_argument("--write", action="store_true", help="write it to the weights' config.json")
    arguments = parser.parse_args()
    if len(arguments.additions) < 2:
        parser.error("--additions: two or more are needed to tell where the mean logarithm is zero")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    split = json.loads(SPLIT.read_text())
    weights = load_weights(arguments.weights)
    fitted = json.loads((RESULTS / "elastic_prior.json").read_text())["looseness"]
    never = set(not_trained_on(split))
    chosen = [item["name"] for item in split["choose"]]
    folded = sorted(name for name, loose in fitted.items() if loose <= LOOSEST and name not in never)
    rows: dict[str, dict[str, float]] = {}
    trained = 0
    for name in [*chosen, *folded]:
        holders = [folder for folder in arguments.data if (folder / name / f"{name}.pdb").exists()]
        md = md_of(name, holders)
        if not md:
            continue
        pdb = PDBFile(str(holders[0] / name / f"{name}.pdb"))
        protein = Protein.from_openmm(pdb.topology, pdb.positions)
        count = features_of(protein).length
        if name in folded and (not FOLDED[0] <= count <= FOLDED[1] or trained == arguments.most):
            continue
        trained += name in folded
        wanted = float(pooled([displacement(frames, round(STRIDE)) for frames in md]).mean())
        rows[name] = {"residues": count, "md": 10 * wanted}
        for addition in arguments.additions:
            widened(weights.network, addition)
            rollout = make_rollout(protein, weights, stride=STRIDE, seed=[0])
            frames = np.array([rollout.step().backbone[0, :, 1].numpy() for _ in range(arguments.frames)])
            rows[name][f"{addition:g}"] = float(np.log(displacement(frames, 1).mean() / wanted))
            rows[name][f"valid {addition:g}"] = float(judge(frames, rollout.features.bonded.numpy()).fraction)
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    means = {}
    for group, names in (("choose", chosen), ("trained", folded), ("all", list(rows))):
        table = np.array([[rows[n][f"{a:g}"] for a in arguments.additions] for n in names if n in rows])
        means[group] = table.mean(0).tolist()
        print(group, len(table), "mean log ratio", table.mean(0).round(3), "spread", table.std(0).round(3))
    slope, offset = np.polyfit(arguments.additions, means["all"], 1)
    addition = round(float(-offset / slope), 3)
    print(f"addition to the logarithm of the amplitude: {addition}")
    write_json(
        arguments.json,
        {"weights": weights.name, "additions": arguments.additions, "frames": arguments.frames, "proteins": rows}
        | {"means": means, "addition": addition},
    )
    if arguments.write:
        widened(weights.network, addition)
        save_weights(weights.path.parent, weights.network, weights.network.config)


if __name__ == "__main__":
    main()
