"""Does a long rollout stay a protein? Thousands of frames, with and without contextual noise, block by block.

    python -m benchmarks.long_rollout --frames 10000 --output benchmarks/results/long

Per block of 500 frames: share of valid frames, radius of gyration, RMSD to the start, and drift indicators that need no
energy: how far the block's mean structure is from the first block's, RMSD of one frame to the next, RMSF within the
block, shares of bad backbone bonds and Ramachandran outliers. Memory of the process is noted after each block. A run
that was stopped goes on from its last whole block, to the same frames as an unbroken one. Villin by default.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm.app
import torch
from openmm.app import PDBFile

from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from openmm_starmd.analysis.flexibility import mean_structure, radius_of_gyration, rmsd_against_lag, rmsf
from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.evaluation.runs import joined, reduce
from openmm_starmd.files.writing import replacing
from openmm_starmd.geometry.residues import ONE_TO_THREE
from openmm_starmd.geometry.superposition import rmsd
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, Weights, load_weights
from openmm_starmd.protein.protein import Protein
from openmm_starmd.rollout import Rollout, features_of

VILLIN = Path(openmm.app.__file__).parent / "data" / "test.pdb"
VARIANTS = {"with contextual noise": None, "without contextual noise": 0.0}


def resident_mib() -> float:
    """Resident memory of this process now; nan where /proc is not to be had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def save(path: Path, **arrays: Any) -> None:
    """Write an npz file whole."""
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def topology_of(protein: Protein) -> mdtraj.Topology:
    """N, CA, C of each residue, in the order of the rollout's backbones."""
    topology = mdtraj.Topology()
    chains: dict[int, Any] = {}
    letters = protein.sequence.replace("/", "")
    for i, letter in enumerate(letters):
        number = int(protein.chain_index[i])
        if number not in chains:
            chains[number] = topology.add_chain()
        name = ONE_TO_THREE.get(letter, "UNK")
        residue = topology.add_residue(name, chains[number], resSeq=int(protein.residue_index[i]))
        for atom in ("N", "CA", "C"):
            topology.add_atom(atom, mdtraj.element.Element.getBySymbol(atom[0]), residue)
    return topology


def draw(rollout: Rollout, folder: Path, frames: int, block: int) -> None:
    """Draw whole blocks until there are enough frames, going on from the last one in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.npz"
    if state.exists():
        with np.load(state) as stored:
            kept = {int(n): torch.from_numpy(x) for n, x in zip(stored["numbers"], stored["frames"], strict=True)}
            rollout.restore(kept, int(stored["count"]), 0)
    while rollout.count < frames:
        first = rollout.count
        begin = time.perf_counter()
        backbones = np.stack([rollout.step().backbone[0].numpy() for _ in range(min(block, frames - first))])
        seconds = time.perf_counter() - begin
        # the frames first: a stop in between draws this block again, and the same
        save(
            folder / f"block-{first // block:04d}.npz",
            backbones=backbones.astype(np.float32),
            seconds=seconds,
            resident=resident_mib(),
        )
        numbers = sorted(rollout.frames())
        kept = np.stack([rollout.frames()[n].numpy() for n in numbers])
        save(state, numbers=np.array(numbers), frames=kept, count=rollout.count)
        print(f"{folder.name}: {rollout.count} of {frames} frames, {resident_mib():.0f} MiB", flush=True)


def measure(folder: Path, protein: Protein, stride: float, frames: int, block: int) -> dict[str, list[float]]:
    """Figures per block; lengths in nm."""
    topology = topology_of(protein)
    start = np.asarray(protein.backbone[:, 1], dtype=np.float64)
    figures: dict[str, list[float]] = {}
    runs, first_mean = [], None
    for number in range(-(-frames // block)):
        with np.load(folder / f"block-{number:04d}.npz") as stored:
            backbones, seconds, resident = stored["backbones"], float(stored["seconds"]), float(stored["resident"])
        xyz = backbones.reshape(len(backbones), -1, 3)
        run = reduce(mdtraj.Trajectory(xyz, topology), folder.name, stride=stride, bonded=protein.bonded)
        runs.append(run)
        mean = mean_structure(run.alphas)
        first_mean = mean if first_mean is None else first_mean
        size, away = radius_of_gyration(run.alphas), rmsd(run.alphas, start)
        row = {
            "frames": len(run),
            "finite": float(np.isfinite(xyz).all((1, 2)).mean()),
            "valid": float(run.valid.mean()),
            "rg": float(size.mean()),
            "rg_spread": float(size.std()),
            "rmsd_to_start": float(away.mean()),
            "rmsd_to_start_spread": float(away.std()),
            "drift_of_mean": float(rmsd(mean[None], first_mean)[0]),
            "step": float(rmsd_against_lag(run.alphas, [1])[0]) if len(run) > 1 else float("nan"),
            "rmsf": float(rmsf(run.alphas).mean()) if len(run) > 1 else float("nan"),
            "bad_bonds": float(np.mean(run.atoms.bad_bonds)),
            "twisted": float(np.mean(run.atoms.twisted)),
            "ramachandran": float(np.mean(run.atoms.ramachandran)),
            "seconds_per_frame": seconds / len(run),
            "resident_mib": resident,
        }
        for key, value in row.items():
            figures.setdefault(key, []).append(value)
    whole = joined(runs)
    figures["valid_in_all"] = [float(whole.valid.mean())]
    return figures


def picture(path: Path, results: dict[str, dict[str, list[float]]], block: int, title: str) -> None:
    """One PNG, a line per variant."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [
        ("valid", 100, f"valid frames per block of {block}", "%"),
        ("rmsd_to_start", 10, "RMSD to start (Cα)", "Å"),
        ("rg", 10, "radius of gyration (Cα)", "Å"),
        ("drift_of_mean", 10, "block's mean structure to the first block's", "Å"),
        ("step", 10, "RMSD of one frame to the next", "Å"),
        ("resident_mib", 1, "memory of the process", "MiB"),
    ]
    for axes, (key, scale, name, unit) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        for (label, figures), color in zip(results.items(), ("#0072B2", "#D55E00"), strict=False):
            values = scale * np.array(figures[key])
            frames = np.cumsum(figures["frames"])
            axes.plot(frames, values, color=color, label=label, marker=".", linewidth=1.3)
            if key + "_spread" in figures:
                spread = scale * np.array(figures[key + "_spread"])
                axes.fill_between(frames, values - spread, values + spread, color=color, alpha=0.15, linewidth=0)
        axes.set(title=name, xlabel="frame", ylabel=unit)
        axes.grid(alpha=0.3)
        if key == "valid":
            axes.set_ylim(-3, 103)
            axes.legend(loc="lower left")
        else:
            axes.set_ylim(bottom=0)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def mark(
    folder: Path,
    settings: SamplerSettings,
    stride: float,
    weights: Weights,
    protein: Protein,
    arguments: argparse.Namespace,
) -> None:
    """Write down what decides the frames in `folder`; a run of something else in it ends the program."""
    identity = {
        "sampler": asdict(settings),
        "stride": stride,
        "seed": arguments.seed,
        "block": arguments.block,
        "sequence": protein.sequence,
        "weights": hashlib.sha256(weights.path.read_bytes()).hexdigest(),
    }
    path = folder / "settings.json"
    if path.exists() and json.loads(path.read_text()) != identity:
        raise SystemExit(f"{folder} holds a run with other settings or weights: remove it or choose another --output")
    write_json(path, identity, ensure_ascii=False)


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown, a row per variant."""
    headings = ["", "valid %", "worst block %", "frames not finite", "RMSD to start, first and last block (Å)"]
    headings += ["Rg, first and last block (Å)", "drift of the mean (Å)", "memory, first and last block (MiB)"]
    lines = [f"| {' | '.join(headings)} |", f"{'|---' * len(headings)}|"]
    for label, f in results.items():
        lost = sum(round((1 - x) * n) for x, n in zip(f["finite"], f["frames"], strict=True))
        lines.append(
            f"| {label} | {100 * f['valid_in_all'][0]:.1f} | {100 * min(f['valid']):.1f} | {lost} | "
            f"{10 * f['rmsd_to_start'][0]:.2f}, {10 * f['rmsd_to_start'][-1]:.2f} | "
            f"{10 * f['rg'][0]:.2f}, {10 * f['rg'][-1]:.2f} | {10 * f['drift_of_mean'][-1]:.2f} | "
            f"{f['resident_mib'][0]:.0f}, {f['resident_mib'][-1]:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Draw, measure, write JSON and PNG, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structure", nargs="?", type=Path, default=VILLIN, help="PDB file; villin by default")
    parser.add_argument("--output", type=Path, required=True, help="directory; a run in it goes on")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--block", type=int, default=500)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--stride", type=float, help="ps; the weights' default")
    parser.add_argument("--steps", type=int, help="denoising steps per frame; the weights' own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    add_markdown_option(parser, "long")
    parser.add_argument("--variants", nargs="+", choices=["with", "without"], default=["with", "without"])
    arguments = parser.parse_args()
    if arguments.frames % arguments.block:
        parser.error(f"{arguments.frames} frames are not a whole number of blocks of {arguments.block}")
    torch.set_num_threads(arguments.threads)

    weights = load_weights(arguments.weights)
    config = weights.config
    stride = arguments.stride or config.stride_default
    pdb = PDBFile(str(arguments.structure))
    protein = Protein.from_openmm(pdb.topology, pdb.positions)
    own = replace(config.sampling, steps=arguments.steps or config.steps)
    results = {}
    for label, tau in VARIANTS.items():
        if label.split()[0] not in arguments.variants:
            continue
        settings = own if tau is None else replace(own, context_tau=tau)
        folder = arguments.output / label.replace(" ", "-")
        mark(folder, settings, stride, weights, protein, arguments)
        start = torch.as_tensor(protein.backbone, dtype=torch.float64)[None]
        rollout = Rollout(
            weights.network,
            features_of(protein),
            start,
            stride=stride,
            seeds=[arguments.seed],
            settings=settings,
            device=arguments.device,
        )
        before = resident_mib()
        draw(rollout, folder, arguments.frames, arguments.block)
        figures = measure(folder, protein, stride, arguments.frames, arguments.block)
        figures["resident_before_mib"] = [before]
        results[label] = figures

    title = f"{arguments.structure.stem}: {arguments.frames} frames of {stride:g} ps, {weights.name}, {own.steps} steps"
    content = {"title": title, "settings": asdict(own), "variants": results}
    write_json(arguments.output / "long_rollout.json", content, ensure_ascii=False)
    picture(arguments.output / "long_rollout.png", results, arguments.block, title)
    said = f"{title}; noise scale {own.noise_scale:g}, blocks of {arguments.block} frames."
    text = f"{said}\n\n{table(results)}"
    print(f"\n{text}")
    if arguments.markdown:
        shown = os.path.relpath((arguments.output / "long_rollout.png").resolve(), arguments.markdown.resolve().parent)
        write_block(arguments.markdown, "long", f"{text}\n\n[Picture]({shown}).")


if __name__ == "__main__":
    main()
