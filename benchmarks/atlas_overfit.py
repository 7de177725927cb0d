"""Genuine ATLAS files through the whole of training: converted, read at strides, and learned by heart.

    python -m benchmarks.atlas_overfit ../shared/data/trajectories/6okd_C ../shared/data/trajectories/7jfl_C

Converts the chains with ``prepare``, checks that windows at stride k hold frames 0, k, 2k ... of the file as mdtraj
reads it, and trains a throw-away network of the mini preset on them. It is judged on windows of the same frames with
noise it has not seen: the error of the predicted clean frame in units of what a Gaussian around the last frame leaves
(1 for a network that has learned nothing), before and after. These weights are never kept: ATLAS data is not for the
package.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import torch

from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import write_json
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.prepare import Settings, prepare
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.data.windows import WindowDataset, WindowSettings
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import load_weights
from openmm_starmd.training.objective import objective_sums
from openmm_starmd.training.recipe import recipe_for, released_config, train
from openmm_starmd.training.settings import ObjectiveSettings


def windows_agree(protein: ProteinData, folder: Path) -> int:
    """Number of windows whose Cα lie where mdtraj reads frames 0, k, 2k ...; a ValueError names one that does not."""
    name = folder.name
    trajectory = mdtraj.load(str(folder / f"{name}_prod_R1_fit.xtc"), top=str(folder / f"{name}.pdb"))
    alphas = trajectory.xyz[:, trajectory.topology.select("name CA")]
    replica, checked = protein.replicas[0], 0
    for stride in range(1, len(replica)):
        frames = np.arange(0, len(replica), stride)
        if not np.array_equal(replica.rigids(frames).translations.numpy(), alphas[::stride]):
            raise ValueError(f"{name}: frames {frames.tolist()} of the store are not those of the file")
        checked += 1
    return checked


@torch.no_grad()
def error(network: Network, proteins: list[ProteinData], settings: WindowSettings, batches: int) -> dict[str, float]:
    """Mean standardised errors over batches that training has not drawn."""
    dataset = WindowDataset(proteins, replace(settings, seed=settings.seed + 1), batches)
    sums: dict[str, float] = {"translation": 0.0, "rotation": 0.0}
    counted = 0.0
    for step in range(batches):
        terms, count = objective_sums(network, dataset[step], ObjectiveSettings())
        counted += float(count)
        for name in sums:
            sums[name] += float(terms[name])
    return {name: value / counted for name, value in sums.items()}


def main() -> None:
    """Convert, train, judge; print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=40, help="to judge on")
    parser.add_argument("--json", type=Path, default=RESULTS / "atlas_overfit.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        prepare(arguments.folders, store, Settings())
        proteins = open_data([store])
        by_name = {folder.name: folder for folder in arguments.folders}
        windows = {protein.name: windows_agree(protein, by_name[protein.name]) for protein in proteins}

        recipe = recipe_for("mini")
        strides = replace(recipe.windows, stride_min=10.0, stride_max=50.0, gap_probability=0.0, torsion_dropout=0.0)
        recipe = replace(recipe, steps=arguments.steps, windows=strides, save_every=arguments.steps)
        torch.manual_seed(recipe.seed)
        before = error(Network(released_config(recipe, proteins)).eval(), proteins, strides, arguments.batches)
        trained = load_weights(train(proteins, Path(scratch) / "run", recipe, accelerator="cpu", progress=False))
        after = error(trained.network, proteins, strides, arguments.batches)
    result = {
        "chains": {protein.name: [len(replica) for replica in protein.replicas] for protein in proteins},
        "strides_checked": windows,
        "steps": arguments.steps,
        "batches": arguments.batches,
        "before": before,
        "after": after,
    }
    write_json(arguments.json, result)
    print("| | translation | rotation |\n|---|---|---|")
    for name, values in (("untrained", before), (f"after {arguments.steps} steps", after)):
        print(f"| {name} | {values['translation']:.3f} | {values['rotation']:.3f} |")
    print(f"strides at which windows held exactly frames 0, k, 2k ...: {windows}")


if __name__ == "__main__":
    main()
