"""Small trajectories for tests: villin, all atoms, that wobbles as a protein does, so that bonds stay bonds."""

from __future__ import annotations

import functools
from pathlib import Path

import mdtraj
import numpy as np

from tests.proteins import VILLIN


@functools.cache
def fragment(residues: int = 12) -> mdtraj.Trajectory:
    """The first residues of villin, hydrogens and all, without a box."""
    start = mdtraj.load(VILLIN)
    start = start.atom_slice(start.topology.select(f"protein and resid 0 to {residues - 1}"))
    start.unitcell_vectors = None
    return start


def wobble(start: mdtraj.Trajectory, frames: int, interval: float = 10.0, seed: int = 0) -> mdtraj.Trajectory:
    """Frames with every atom up to 0.02 nm from where it was, tumbling and drifting; times from 0 on, ps."""
    rng = np.random.default_rng(seed)
    xyz = start.xyz + 0.005 * rng.standard_normal((frames, start.n_atoms, 3))
    angle = np.linspace(0, 3, frames)
    cosine, sine, zero, one = np.cos(angle), np.sin(angle), 0 * angle, 0 * angle + 1
    turn = np.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    xyz = np.einsum("tij,taj->tai", turn, xyz) + np.linspace(0, 2, frames)[:, None, None]
    return mdtraj.Trajectory(xyz.astype(np.float32), start.topology, time=interval * np.arange(frames))


def write_chain(
    folder: Path, name: str = "1abc_A", frames: int = 30, replicas: tuple[int, ...] = (1, 2), interval: float = 10.0
) -> Path:
    """An ATLAS chain, ``folder/NAME/NAME.pdb`` and ``NAME_prod_R1_fit.xtc``; replica 2 is half as long."""
    start = fragment()
    (folder / name).mkdir(parents=True)
    start.save_pdb(str(folder / name / f"{name}.pdb"))
    for number in replicas:
        trajectory = wobble(start, frames // number, interval, seed=number)
        trajectory.save_xtc(str(folder / name / f"{name}_prod_R{number}_fit.xtc"))
    return folder / name
