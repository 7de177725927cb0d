"""Rollouts and reference MD of the benchmarks: drawn or read, thinned to one stride, kept on disk where asked."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from openmm import unit
from openmm.app import PDBFile

from openmm_starmd import StarMDSimulation
from openmm_starmd.analysis.validity import alpha_carbons
from openmm_starmd.files.writing import replacing
from openmm_starmd.model.weights import Weights, load_weights
from openmm_starmd.protein.protein import Protein
from openmm_starmd.rollout import make_rollout

HELD_OUT = ("1l2y_A", "2op7_A", "2k28_A", "6okd_A", "6mrr_A")
"""Proteins of benchmarks/data that no released weights were trained on."""


def thinned(trajectory: mdtraj.Trajectory, stride: float, path: Path) -> mdtraj.Trajectory:
    """Frames at 1, 2, ... times `stride` ps after the start; the first frame of the file lies one interval after it."""
    if trajectory.n_frames < 2:
        raise ValueError(f"{path} has {trajectory.n_frames} frames; at least two are needed")
    interval = float(trajectory.time[1] - trajectory.time[0])
    step = round(stride / interval)
    if step < 1 or abs(step * interval - stride) > 1e-6 * stride:
        raise ValueError(f"a stride of {stride:g} ps is not a multiple of the {interval:g} ps between frames of {path}")
    return trajectory[step - 1 :: step]


def read_replica(folder: Path, replica: int, stride: float, atoms: bool = False) -> mdtraj.Trajectory | None:
    """A replica of ``folder/NAME_prod_R*_fit.xtc``, thinned to `stride` ps; None if there is no such replica.

    Parameters
    ----------
    folder : Path
        ``NAME``, with ``NAME.pdb`` in it.
    replica : int
    stride : float
        ps.
    atoms : bool
        All atoms of the file; else Cα only.
    """
    path = folder / f"{folder.name}_prod_R{replica}_fit.xtc"
    if not path.exists():
        return None
    topology = mdtraj.load(str(folder / f"{folder.name}.pdb")).topology
    indices = None if atoms else alpha_carbons(topology)
    return thinned(mdtraj.load(str(path), top=topology, atom_indices=indices), stride, path)


def load_replica(folder: Path, replica: int, stride: float) -> np.ndarray | None:
    """Cα positions [frames, N, 3] in nm of :func:`read_replica`."""
    trajectory = read_replica(folder, replica, stride)
    return None if trajectory is None else trajectory.xyz.astype(np.float64)


class Recorder:
    """Reporter that keeps the atoms of every frame."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:
        """Every step, positions."""
        return {"steps": 1, "periodic": False, "include": ["positions"]}

    def report(self, simulation: Any, state: Any) -> None:
        """Keep a frame."""
        self.frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer).astype(np.float64))


@dataclass(frozen=True)
class Drawing:
    """What decides the frames of a rollout, but for protein, stride and seed.

    Attributes
    ----------
    weights : str
    steps : int or None
        Denoising steps per frame; the weights' own.
    device : str
    heavy : bool
        All heavy atoms, with the side chains that the network draws, whatever the weights say of them; else Cα.
    store : Path or None
        Directory where rollouts are kept, and taken from where they are there.
    """

    weights: str
    steps: int | None = None
    device: str = "cpu"
    heavy: bool = False
    store: Path | None = None


@cache
def _weights(weights: str) -> Weights:
    return load_weights(weights)


def rollout(path: Path, frames: int, seed: int, stride: float, drawing: Drawing) -> mdtraj.Trajectory:
    """:func:`rollouts` of one seed."""
    return rollouts(path, frames, [seed], stride, drawing)[0]


def rollouts(path: Path, frames: int, seeds: Sequence[int], stride: float, drawing: Drawing) -> list[mdtraj.Trajectory]:
    """Frames drawn from the structure in `path`, a trajectory per seed.

    Parameters
    ----------
    path : Path
        PDB file.
    frames : int
    seeds : sequence of int
        Those that the store lacks are drawn together, as replicas of one batch, where Cα alone are wanted: each
        replica's numbers are those it has alone, but for rounding.
    stride : float
        ps.
    drawing : Drawing

    Returns
    -------
    list of mdtraj.Trajectory
        Each of as many frames, the start not among them; nan from where the model fails to draw a frame.
    """
    weights = _weights(drawing.weights)
    steps = drawing.steps or weights.config.steps
    pdb = PDBFile(str(path))
    places = {seed: _place(path, seed, stride, steps, weights, drawing) for seed in seeds}
    found = {seed: _stored(place, frames) for seed, place in places.items()}
    missing = [seed for seed in places if found[seed] is None]
    if drawing.heavy:
        topology = _simulation(pdb, 0, stride, steps, weights, drawing).topology
        for seed in missing:
            found[seed] = _simulated(pdb, path.stem, frames, seed, stride, steps, weights, drawing)
            _store(places[seed], found[seed])
    else:
        protein = Protein.from_openmm(pdb.topology, pdb.positions)
        topology = protein.frame_topology("ca")
        for seed, xyz in _replicas(protein, path.stem, frames, missing, stride, steps, weights, drawing).items():
            found[seed] = xyz
            _store(places[seed], xyz)
    shown = mdtraj.Topology.from_openmm(topology)
    return [_timed(found[seed], shown, stride) for seed in seeds]


def _place(path: Path, seed: int, stride: float, steps: int, weights: Weights, drawing: Drawing) -> Path | None:
    """Where a rollout is kept; None without a store."""
    if drawing.store is None:
        return None
    key = hashlib.sha256(weights.path.read_bytes() + repr(weights.config).encode() + path.read_bytes())
    key.update(repr((stride, seed, steps, drawing.heavy)).encode())
    return drawing.store / f"{path.stem}-{stride:g}ps-seed{seed}-{key.hexdigest()[:12]}.npz"


def _stored(place: Path | None, frames: int) -> np.ndarray | None:
    """The first frames of a stored rollout; None if there are not so many."""
    if place is None or not place.exists():
        return None
    with np.load(place) as stored:
        xyz = stored["xyz"]
    return xyz[:frames] if len(xyz) >= frames else None


def _store(place: Path | None, xyz: np.ndarray) -> None:
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            np.savez(temporary, xyz=xyz)


def _replicas(
    protein: Protein,
    name: str,
    frames: int,
    seeds: Sequence[int],
    stride: float,
    steps: int,
    weights: Weights,
    drawing: Drawing,
) -> dict[int, np.ndarray]:
    """Cα of rollouts by seed, [frames, N, 3] in nm, drawn as one batch."""
    if not seeds:
        return {}
    batch = make_rollout(protein, weights, stride=stride, seed=list(seeds), device=drawing.device, steps=steps)
    xyz = np.full((len(seeds), frames, protein.length, 3), np.nan, dtype=np.float32)
    for frame in range(frames):
        try:
            xyz[:, frame] = batch.step().backbone[:, :, 1].numpy()
        except RuntimeError as error:
            # poor weights may lead where nothing is finite; which replica it was shows when each is drawn alone
            print(f"{name}, seeds {list(seeds)}, frame {frame + 1}: {error}", file=sys.stderr, flush=True)
            if len(seeds) == 1:
                break
            alone = [_replicas(protein, name, frames, [seed], stride, steps, weights, drawing) for seed in seeds]
            return {seed: drawn for one in alone for seed, drawn in one.items()}
    return dict(zip(seeds, xyz, strict=True))


def _simulation(
    pdb: PDBFile, seed: int, stride: float, steps: int, weights: Weights, drawing: Drawing
) -> StarMDSimulation:
    """A simulation that draws side chains, whatever the weights say of them."""
    drawn = replace(weights, config=replace(weights.config, torsions_trained=True))
    return StarMDSimulation(
        pdb.topology,
        pdb.positions,
        stride=stride,
        seed=seed,
        weights=drawn,
        steps=steps,
        atoms="heavy",
        device=drawing.device,
    )


def _simulated(
    pdb: PDBFile,
    name: str,
    frames: int,
    seed: int,
    stride: float,
    steps: int,
    weights: Weights,
    drawing: Drawing,
) -> np.ndarray:
    """Heavy atoms of a rollout, [frames, atoms, 3] in nm."""
    simulation = _simulation(pdb, seed, stride, steps, weights, drawing)
    recorder = Recorder()
    simulation.reporters.append(recorder)
    xyz = np.full((frames, simulation.topology.getNumAtoms(), 3), np.nan, dtype=np.float32)
    try:
        simulation.step(frames)
    except RuntimeError as error:
        # poor weights may lead where nothing is finite
        print(f"{name}, seed {seed}, frame {len(recorder.frames) + 1}: {error}", file=sys.stderr, flush=True)
    if recorder.frames:
        xyz[: len(recorder.frames)] = recorder.frames
    return xyz


def _timed(xyz: np.ndarray, topology: mdtraj.Topology, stride: float) -> mdtraj.Trajectory:
    return mdtraj.Trajectory(xyz, topology, time=stride * np.arange(1, len(xyz) + 1))


def draw(path: Path, frames: int, seed: int, stride: float, weights: str, steps: int | None, device: str) -> np.ndarray:
    """Cα positions [frames, N, 3] in nm of a rollout from the structure in `path`."""
    return rollout(path, frames, seed, stride, Drawing(weights, steps, device)).xyz.astype(np.float64)
