"""Rollouts and reference MD of the benchmarks: drawn or read, thinned to one stride, kept on disk where asked."""

from __future__ import annotations

import hashlib
import sys
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
    """Frames drawn from the structure in `path`.

    Parameters
    ----------
    path : Path
        PDB file.
    frames : int
    seed : int
    stride : float
        ps.
    drawing : Drawing

    Returns
    -------
    mdtraj.Trajectory
        Of as many frames, the start not among them; nan from where the model fails to draw a frame.
    """
    weights = _weights(drawing.weights)
    steps = drawing.steps or weights.config.steps
    kept = None
    if drawing.store is not None:
        key = hashlib.sha256(weights.path.read_bytes() + repr(weights.config).encode() + path.read_bytes())
        key.update(repr((stride, seed, steps, drawing.heavy)).encode())
        kept = drawing.store / f"{path.stem}-{stride:g}ps-seed{seed}-{key.hexdigest()[:12]}.npz"
    pdb = PDBFile(str(path))
    config = replace(weights.config, torsions_trained=drawing.heavy)
    simulation = StarMDSimulation(
        pdb.topology,
        pdb.positions,
        stride=stride,
        seed=seed,
        weights=replace(weights, config=config),
        steps=steps,
        atoms="heavy" if drawing.heavy else "ca",
        device=drawing.device,
    )
    topology = mdtraj.Topology.from_openmm(simulation.topology)
    if kept is not None and kept.exists():
        with np.load(kept) as stored:
            xyz = stored["xyz"]
        if len(xyz) >= frames:
            return _timed(xyz[:frames], topology, stride)
    recorder = Recorder()
    simulation.reporters.append(recorder)
    xyz = np.full((frames, topology.n_atoms, 3), np.nan, dtype=np.float32)
    try:
        simulation.step(frames)
    except RuntimeError as error:
        # poor weights may lead where nothing is finite
        print(f"{path.stem}, seed {seed}, frame {len(recorder.frames) + 1}: {error}", file=sys.stderr, flush=True)
    if recorder.frames:
        xyz[: len(recorder.frames)] = recorder.frames
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            np.savez(temporary, xyz=xyz)
    return _timed(xyz, topology, stride)


def _timed(xyz: np.ndarray, topology: mdtraj.Topology, stride: float) -> mdtraj.Trajectory:
    return mdtraj.Trajectory(xyz, topology, time=stride * np.arange(1, len(xyz) + 1))


def draw(path: Path, frames: int, seed: int, stride: float, weights: str, steps: int | None, device: str) -> np.ndarray:
    """Cα positions [frames, N, 3] in nm of a rollout from the structure in `path`."""
    return rollout(path, frames, seed, stride, Drawing(weights, steps, device)).xyz.astype(np.float64)
