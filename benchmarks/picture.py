"""The picture of the README: how proteins that were never trained on move, beside MD.

    python -m benchmarks.picture                      # docs/picture.png
    python -m benchmarks.picture --store rollouts     # with the rollouts that benchmarks.fidelity has kept there

A row per protein. Left, RMSF of Cα: the model, its seeds pooled; both MD replicas; the elastic network of the start
structure that all proteins are held against, scaled to the mean of MD; each r is the mean of those with the two
replicas. Right, Cα traces of frames at equal times, superposed on the start structure: the first MD replica and the
first seed. Of the held-out proteins 2op7_A was fixed beforehand, for its long references; the weights follow its shape
best and its width worst. 2k28_A, whose shape they follow worst, stands beside it.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch
from PIL import Image

from benchmarks.lib.drawing import Drawing, load_replica, rollouts
from benchmarks.lib.paths import DATA, PICTURE
from openmm_starmd.analysis.flexibility import agreement, correlation, pooled, rmsf
from openmm_starmd.analysis.network_models import FLOOR, network_rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours
from openmm_starmd.evaluation.canvas import blank_figure
from openmm_starmd.files.writing import replacing
from openmm_starmd.geometry.superposition import superpose
from openmm_starmd.model.weights import DEFAULT_WEIGHTS

PROTEINS = ("2op7_A", "2k28_A")
TRACES = 10
"""Frames drawn of a run, evenly spaced in time."""

# blue, orange and green of Okabe and Ito, told apart by every kind of colour vision
MODEL, MD, ELASTIC = "#0072B2", "#D55E00", "#009E73"


@dataclass(frozen=True)
class Scene:
    """What is drawn of a protein; positions in nm.

    Attributes
    ----------
    name : str
    stride : float
        ps.
    start : ndarray [N, 3]
    bonded : ndarray [N-1], bool
    replicas, runs : list of ndarray [frames, N, 3]
        MD and the model, of as many frames each.
    """

    name: str
    stride: float
    start: np.ndarray
    bonded: np.ndarray
    replicas: list[np.ndarray]
    runs: list[np.ndarray]


def read_scene(folder: Path, stride: float, seeds: list[int], drawing: Drawing) -> Scene:
    """Read two replicas of MD and draw as many frames; ValueError where there are no two."""
    replicas = [x for x in (load_replica(folder, number, stride) for number in (1, 2)) if x is not None]
    if len(replicas) < 2:
        raise ValueError(f"{folder} has {len(replicas)} replicas of MD; the picture shows two")
    frames = min(len(replica) for replica in replicas)
    path = folder / f"{folder.name}.pdb"
    structure = mdtraj.load(str(path))
    return Scene(
        folder.name,
        stride,
        structure.xyz[0, alpha_carbons(structure.topology)].astype(np.float64),
        bonded_neighbours(structure),
        [replica[:frames] for replica in replicas],
        [run.xyz.astype(np.float64) for run in rollouts(path, frames, seeds, stride, drawing)],
    )


def evenly(frames: int, count: int) -> np.ndarray:
    """Indices of `count` frames, evenly spaced, the last of them the last frame."""
    return np.arange(1, count + 1) * frames // count - 1


def plane_of(points: np.ndarray) -> np.ndarray:
    """Axes [2, 3] along which points [..., 3] spread widest."""
    flat = points.reshape(-1, 3)
    axes: np.ndarray = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2]
    return axes


def draw_profiles(panel: Any, scene: Scene) -> None:
    """RMSF of Cα by residue, Å."""
    replicas = [rmsf(replica) for replica in scene.replicas]
    model = pooled([rmsf(run) for run in scene.runs])
    network = network_rmsf(scene.start, FLOOR, scene.bonded)
    network *= pooled(replicas).mean() / network.mean()
    residues = np.arange(1, len(model) + 1)
    label = f"MD, two replicas: r = {correlation(*replicas):.2f}"
    for style, profile in zip(("-", "--"), replicas, strict=True):
        panel.plot(residues, 10 * profile, style, color=MD, label=label, linewidth=1.8)
        label = "_"  # one line in the legend for both
    for profile, name, style in ((network, "elastic network, scaled", ":"), (model, "STAR-MD", "-")):
        color, width = (MODEL, 2.6) if style == "-" else (ELASTIC, 1.8)
        r = agreement(profile, replicas).correlation
        panel.plot(residues, 10 * profile, style, color=color, label=f"{name}: r = {r:.2f}", linewidth=width)
    panel.set(xlabel="residue", ylabel="RMSF of Cα (Å)", xlim=(1, len(model)), ylim=(0, None))
    span = len(scene.runs[0]) * scene.stride
    panel.set_title(f"{scene.name}, {len(model)} residues, {span:g} ps", loc="left", weight="bold")
    panel.legend(frameon=False)
    panel.spines[["top", "right"]].set_visible(False)


def draw_traces(panels: Any, scene: Scene) -> None:
    """Cα traces of MD and of the model over that of the start structure, both seen from one side at one scale."""
    shown = evenly(len(scene.runs[0]), min(TRACES, len(scene.runs[0])))
    frames = [superpose(run[shown], scene.start) for run in (scene.replicas[0], scene.runs[0])]
    center, axes = scene.start.mean(0), plane_of(scene.start)
    # the panels' scale is one: what both show must fit into either
    points = 10 * (np.concatenate([*frames, scene.start[None]]) - center) @ axes.T
    low, high = points.min((0, 1)) - 1, points.max((0, 1)) + 1
    for panel, traces, color, title in zip(panels, frames, (MD, MODEL), ("MD", "STAR-MD"), strict=True):
        for trace in traces:
            panel.plot(*(10 * axes @ (trace - center).T), color=color, alpha=0.4, linewidth=1.8)
        x, y = 10 * axes @ (scene.start - center).T
        panel.plot(x, y, color="black", linewidth=1.2)
        panel.plot(x[:1], y[:1], "o", color="black", markersize=4)
        panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        panel.set_title(f"{title}, {len(shown)} frames")
        panel.set_anchor("N")
        panel.set_axis_off()


def save_small_png(figure: Any, path: Path) -> None:
    """Write a figure with a palette of 128 colours: a quarter of the bytes, and no difference to be seen."""
    figure.set_dpi(130)
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").quantize(128)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def main() -> None:
    """Draw the rollouts and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", nargs="+", default=list(PROTEINS), help="folders of --data with two replicas")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--stride", type=float, default=10.0, help="ps")
    parser.add_argument("--steps", type=int, help="denoising steps per frame; the weights' own")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--store", type=Path, help="directory that keeps rollouts, so that none is drawn twice")
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    drawing = Drawing(arguments.weights, arguments.steps, store=arguments.store)
    rows = len(arguments.proteins)
    figure, axes = blank_figure("the picture", 11, 3.2 * rows, rows=rows, columns=3)
    axes[0, 0].get_gridspec().set_width_ratios([1.9, 1, 1])
    for name, panels in zip(arguments.proteins, axes, strict=True):
        scene = read_scene(arguments.data / name, arguments.stride, arguments.seeds, drawing)
        draw_profiles(panels[0], scene)
        draw_traces(panels[1:], scene)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_small_png(figure, arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
