"""Villin's heavy atoms, still and in a motion of known memory, for tests of measures."""

from __future__ import annotations

import mdtraj
import numpy as np

from openmm_starmd.evaluation import runs
from tests.proteins import VILLIN

N = 35  # its residues


def villin() -> mdtraj.Trajectory:
    """Heavy atoms of villin, one frame."""
    structure = mdtraj.load(VILLIN)
    return structure.atom_slice(structure.topology.select("protein and not element H"))


def moving(frames: int = 120, seed: int = 0, memory: float = 0.9, width: float = 0.03) -> mdtraj.Trajectory:
    """Villin with an autoregressive, smooth displacement of known memory; 10 ps a frame."""
    generator = np.random.default_rng(seed)
    start = villin()
    residues = np.array([a.residue.index for a in start.topology.atoms])
    phase = np.sin(np.outer(residues, [0.05, 0.1, 0.2, 0.3]))  # [atoms, modes]
    amplitude = np.zeros((4, 3))
    xyz = np.empty((frames, start.n_atoms, 3), dtype=np.float32)
    for frame in range(frames):
        amplitude = memory * amplitude + np.sqrt(1 - memory**2) * width * generator.normal(size=(4, 3))
        xyz[frame] = start.xyz[0] + phase @ amplitude
    return mdtraj.Trajectory(xyz, start.topology, time=10.0 * np.arange(frames))


def run_of(trajectory: mdtraj.Trajectory, label: str = "run") -> runs.Run:
    return runs.reduce(trajectory, label)
