"""Cα traces for tests of measures."""

from __future__ import annotations

import mdtraj
import numpy as np


def helix(residues: int = 20) -> np.ndarray:
    """Cα trace [N, 3] of an ideal α-helix, nm: rise 0.15, radius 0.23, 100 degrees."""
    turn = np.deg2rad(100) * np.arange(residues)
    return np.stack([0.23 * np.cos(turn), 0.23 * np.sin(turn), 0.15 * np.arange(residues)], -1)


def trajectory(alphas: np.ndarray, chains: int = 1, numbers: list[int] | None = None) -> mdtraj.Trajectory:
    """Trajectory of Cα alone."""
    topology = mdtraj.Topology()
    n = alphas.shape[1]
    for c in range(chains):
        chain = topology.add_chain()
        for i in range(c * n // chains, (c + 1) * n // chains):
            residue = topology.add_residue("ALA", chain, resSeq=numbers[i] if numbers else i + 1)
            topology.add_atom("CA", mdtraj.element.carbon, residue)
    return mdtraj.Trajectory(alphas.astype(np.float32), topology)
