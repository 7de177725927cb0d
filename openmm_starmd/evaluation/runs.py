"""What is kept of a trajectory for an evaluation: Cα positions, and verdicts and secondary structure frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.flexibility import secondary_structure
from openmm_starmd.analysis.matching import stride_of
from openmm_starmd.analysis.stereochemistry import Stereochemistry, stereochemistry
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge


@dataclass(frozen=True)
class Run:
    """One trajectory, reduced.

    Attributes
    ----------
    label : str
    alphas : ndarray [frames, N, 3], float32
        nm.
    stride : float
        ps.
    valid : ndarray [frames], bool
        By the Cα trace (:mod:`openmm_starmd.analysis.validity`).
    atoms : Stereochemistry
        Verdict on the other atoms, as far as there are any.
    codes : ndarray [frames, N] of str, or None
        H, E, C.
    residues : tuple of str
        One-letter names, X where there is none.
    bonded : ndarray [N-1], bool
    """

    label: str
    alphas: NDArray[np.float32]
    stride: float
    valid: NDArray[np.bool_]
    atoms: Stereochemistry
    codes: NDArray[np.str_] | None
    residues: tuple[str, ...]
    bonded: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.alphas)

    @property
    def valid_atoms(self) -> NDArray[np.bool_]:
        """Frames valid by the Cα trace and within the limits for Ramachandran and rotamer outliers."""
        return self.valid & self.atoms.within_limits

    def thinned(self, step: int, frames: int) -> Run:
        """Every so many frames, from the first, and so many of them."""
        part = slice(0, step * (frames - 1) + 1, step)
        return replace(
            self,
            alphas=self.alphas[part],
            stride=self.stride * step,
            valid=self.valid[part],
            atoms=self.atoms[part],
            codes=None if self.codes is None else self.codes[part],
        )

    def frozen(self, frames: int) -> Run:
        """The first frame, so many times: the floor of a run that does not move."""
        again = np.zeros(frames, dtype=np.int64)
        return replace(
            self,
            label="frozen structure",
            alphas=self.alphas[again],
            valid=self.valid[again],
            atoms=self.atoms[again],
            codes=None if self.codes is None else self.codes[again],
        )


def reduce(
    trajectory: mdtraj.Trajectory,
    label: str,
    *,
    stride: float | None = None,
    bonded: NDArray[np.bool_] | None = None,
) -> Run:
    """Reduce a trajectory to what an evaluation needs, so that the trajectory itself can be dropped.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        At least each residue's CA.
    label : str
    stride : float, optional
        ps between frames; the trajectory's own times by default.
    bonded : ndarray [N-1], bool, optional
        Which neighbours are bonded. Give the start structure's: by default the first frame decides, and a run that
        begins with a broken chain would be forgiven for it.

    Returns
    -------
    Run
    """
    indices = alpha_carbons(trajectory.topology)
    bonded = bonded_neighbours(trajectory) if bonded is None else bonded
    alphas = np.ascontiguousarray(trajectory.xyz[:, indices])
    return Run(
        label=label,
        alphas=alphas,
        stride=stride_of(trajectory) if stride is None else float(stride),
        valid=judge(alphas, bonded).valid,
        atoms=stereochemistry(trajectory, bonded),
        codes=secondary_structure(trajectory),
        residues=tuple(trajectory.topology.atom(i).residue.code or "X" for i in indices),
        bonded=bonded,
    )


def joined(parts: list[Run]) -> Run:
    """Runs that follow each other, as one; label and stride of the first."""
    if len(parts) == 1:
        return parts[0]
    atoms = [part.atoms for part in parts]
    arrays = {
        f.name: np.concatenate([getattr(a, f.name) for a in atoms])
        for f in fields(Stereochemistry)
        if f.name != "judged"
    }
    codes = [part.codes for part in parts if part.codes is not None]
    return replace(
        parts[0],
        alphas=np.concatenate([part.alphas for part in parts]),
        valid=np.concatenate([part.valid for part in parts]),
        atoms=Stereochemistry(**arrays, judged=atoms[0].judged),
        codes=np.concatenate(codes) if codes else None,
    )
