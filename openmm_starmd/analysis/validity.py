"""Which frames of a trajectory are physically possible, judged by the Cα trace alone.

A frame is valid when every bonded pair of neighbouring Cα lies within 2.7 to 4.2 Å (2.9 Å is a cis, 3.8 Å a trans
peptide) and no other pair of Cα is under 3.0 Å. Pairs across a chain break are judged as any other pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.geometry.residues import CLOSEST_CA_CONTACT, LONGEST_CA_LINK, PEPTIDE_BOND, SHORTEST_CA_LINK

# Frames per chunk are chosen so that one array of distances stays below this many numbers (64 MB).
_CHUNK = 8_000_000


@dataclass(frozen=True)
class Validity:
    """Verdict on each frame.

    Attributes
    ----------
    valid : ndarray [frames], bool
    broken : ndarray [frames], int
        Bonded neighbours whose Cα distance is out of bounds.
    clashes : ndarray [frames], int
        Other pairs of Cα closer than 3.0 Å.
    """

    valid: NDArray[np.bool_]
    broken: NDArray[np.int64]
    clashes: NDArray[np.int64]

    @property
    def fraction(self) -> float:
        """Share of valid frames, 0 to 1; nan without frames."""
        return float(self.valid.mean()) if len(self.valid) else float("nan")


def alpha_carbons(topology: mdtraj.Topology) -> NDArray[np.int64]:
    """Indices of the Cα atoms, one per residue, in order.

    Parameters
    ----------
    topology : mdtraj.Topology

    Returns
    -------
    ndarray [N], int

    Raises
    ------
    ValueError
        If there are fewer than three.
    """
    # A calcium ion is named CA as well; only its element tells.
    indices = np.array(
        [a.index for a in topology.atoms if a.name == "CA" and (a.element is None or a.element.symbol != "Ca")],
        dtype=np.int64,
    )
    if len(indices) < 3:
        raise ValueError(f"the topology has {len(indices)} CA atoms; at least three residues are needed")
    return indices


def bonded_neighbours(trajectory: mdtraj.Trajectory) -> NDArray[np.bool_]:
    """Which neighbouring residues are bonded: same chain, and no break between them in the first frame.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory

    Returns
    -------
    ndarray [N-1], bool
        By the C-N distance of the first frame (under 0.2 nm) where C and N are there; else residues of one chain with
        consecutive numbers count as bonded.
    """
    topology = trajectory.topology
    residues = [topology.atom(i).residue for i in alpha_carbons(topology)]
    positions = trajectory.xyz[0] if trajectory.n_frames else None
    bonded = np.zeros(len(residues) - 1, dtype=bool)
    for i, (left, right) in enumerate(pairwise(residues)):
        if left.chain.index != right.chain.index:
            continue
        carbon = next((a.index for a in left.atoms if a.name == "C"), None)
        nitrogen = next((a.index for a in right.atoms if a.name == "N"), None)
        if carbon is None or nitrogen is None or positions is None:
            # a residue of an insertion code keeps the number of the one before
            bonded[i] = right.resSeq - left.resSeq in (0, 1)
        else:
            bonded[i] = np.linalg.norm(positions[carbon] - positions[nitrogen]) < PEPTIDE_BOND
    return bonded


def judge(alphas: NDArray[np.floating], bonded: NDArray[np.bool_]) -> Validity:
    """Judge frames of Cα positions.

    Parameters
    ----------
    alphas : ndarray [frames, N, 3]
        nm.
    bonded : ndarray [N-1], bool
        Whether residue i is peptide-bonded to i+1.

    Returns
    -------
    Validity
        A frame with a position that is not finite is never valid.
    """
    alphas = np.asarray(alphas, dtype=np.float64)
    frames, n = alphas.shape[:2]
    if bonded.shape != (n - 1,):
        raise ValueError(f"bonded has shape {bonded.shape}, expected ({n - 1},) for {n} residues")
    rows, columns = np.triu_indices(n, 1)
    neighbours = np.zeros(len(rows), dtype=bool)
    neighbours[columns == rows + 1] = bonded
    apart_rows, apart_columns = rows[~neighbours], columns[~neighbours]
    broken = np.zeros(frames, dtype=np.int64)
    clashes = np.zeros(frames, dtype=np.int64)
    size = max(1, _CHUNK // max(1, 3 * len(rows)))
    for begin in range(0, frames, size):
        part = slice(begin, begin + size)
        xyz = alphas[part]
        steps = np.linalg.norm(xyz[:, 1:] - xyz[:, :-1], axis=-1)[:, bonded]
        broken[part] = ((steps < SHORTEST_CA_LINK) | (steps > LONGEST_CA_LINK)).sum(1)
        squares = ((xyz[:, apart_rows] - xyz[:, apart_columns]) ** 2).sum(-1)
        clashes[part] = (squares < CLOSEST_CA_CONTACT**2).sum(1)
    finite = np.isfinite(alphas).all((1, 2))
    return Validity(finite & (broken == 0) & (clashes == 0), broken, clashes)


def validity(trajectory: mdtraj.Trajectory, bonded: NDArray[np.bool_] | None = None) -> Validity:
    """Judge the frames of a trajectory.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        Any atoms, as long as each residue's CA is among them.
    bonded : ndarray [N-1], bool, optional
        Whether residue i is peptide-bonded to i+1; :func:`bonded_neighbours` by default.

    Returns
    -------
    Validity
    """
    bonded = bonded_neighbours(trajectory) if bonded is None else bonded
    return judge(trajectory.xyz[:, alpha_carbons(trajectory.topology)], bonded)
