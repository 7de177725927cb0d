"""Side chains of a run beside MD's: outliers, populations of χ1's three wells, how often χ1 changes well."""

from __future__ import annotations

from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.stereochemistry import stereochemistry
from openmm_starmd.release.figures import CHI1_ALIKE

WELLS = 3


def chi1(trajectory: mdtraj.Trajectory) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """χ1 of every residue that has one and can turn it (proline cannot).

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        Heavy atoms.

    Returns
    -------
    residues : ndarray [M], int
        Their numbers in the topology.
    angles : ndarray [frames, M]
        Degrees in [0, 360): gauche+ lies under 120, trans from 120, gauche- from 240.
    """
    quartets, angles = mdtraj.compute_chi1(trajectory)
    owners = [trajectory.topology.atom(quartet[1]).residue for quartet in quartets]
    turning = np.array([owner.name != "PRO" for owner in owners], dtype=bool)
    residues = np.array([owner.index for owner in owners], dtype=np.int64)[turning]
    return residues, np.degrees(angles[:, turning].astype(np.float64)) % 360


def populations(angles: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of frames in each well, [M, 3], of angles [frames, M] in degrees."""
    return (wells(angles)[..., None] == np.arange(WELLS)).mean(0)


def wells(angles: NDArray[np.floating]) -> NDArray[np.int64]:
    """Well of each angle in degrees: 0, 1, 2."""
    return (np.asarray(angles) % 360 // 120).astype(np.int64)


def agreement(angles: NDArray[np.floating], reference: NDArray[np.floating]) -> dict[str, float]:
    """χ1 of a run beside a reference's.

    Parameters
    ----------
    angles, reference : ndarray [frames, M]
        Degrees; the frames may differ in number.

    Returns
    -------
    dict
        ``chi1_distance``: mean total variation distance of the wells' populations; ``chi1_alike``: share of residues
        where it is under :data:`~openmm_starmd.release.figures.CHI1_ALIKE`; ``chi1_same``: share with the same most
        populated well; ``chi1_error``: mean difference of the angle in that well, degrees, over those; ``chi1_jumps``:
        share of frames whose well is not that of the frame before.
    """
    first, second = populations(angles), populations(reference)
    distance = np.abs(first - second).sum(-1) / 2
    same = first.argmax(-1) == second.argmax(-1)
    means = [_mean_in_well(x, p.argmax(-1)) for x, p in ((angles, first), (reference, second))]
    difference = np.abs((means[0] - means[1] + 180) % 360 - 180)[same]
    jumps = wells(angles[1:]) != wells(angles[:-1])
    return {
        "chi1_distance": float(distance.mean()),
        "chi1_alike": float((distance < CHI1_ALIKE).mean()),
        "chi1_same": float(same.mean()),
        "chi1_error": float(difference.mean()) if len(difference) else float("nan"),
        "chi1_jumps": float(jumps.mean()) if len(jumps) else float("nan"),
    }


def _mean_in_well(angles: NDArray[np.floating], well: NDArray[np.int64]) -> NDArray[np.float64]:
    """Circular mean [M] of angles [frames, M] while they are in the given well [M], degrees."""
    inside = wells(angles) == well
    vectors = np.where(inside, np.exp(1j * np.radians(angles)), 0).sum(0)
    return np.degrees(np.angle(vectors))


def outliers(trajectory: mdtraj.Trajectory, bonded: NDArray[np.bool_]) -> dict[str, float]:
    """Mean shares of outliers and the share of frames within the paper's limits for both."""
    verdict = stereochemistry(trajectory, bonded)
    return {
        "ramachandran": float(np.mean(verdict.ramachandran)),
        "rotamer": float(np.mean(verdict.rotamer)),
        "within_limits": float(verdict.within_limits.mean()),
    }


def compare(
    runs: list[mdtraj.Trajectory],
    reference: mdtraj.Trajectory,
    second: mdtraj.Trajectory | None,
    start: mdtraj.Trajectory,
    bonded: NDArray[np.bool_],
) -> dict[str, Any]:
    """Side chains of rollouts, of a second replica and of the start structure beside the reference's.

    All with heavy atoms, in equal numbers of frames (but for the start structure, which stands for a frozen one).
    """
    residues, target = chi1(reference)

    def row(trajectory: mdtraj.Trajectory) -> dict[str, float]:
        own, angles = chi1(trajectory)
        shared = np.intersect1d(own, residues)
        angles = angles[:, np.searchsorted(own, shared)]
        return outliers(trajectory, bonded) | agreement(angles, target[:, np.searchsorted(residues, shared)])

    drawn = [row(run) for run in runs]
    return {
        "residues": len(residues),
        "model": {key: float(np.mean([seed[key] for seed in drawn])) for key in drawn[0]} | {"seeds": drawn},
        "second": None if second is None else row(second),
        "frozen": row(start),
        "reference": outliers(reference, bonded) | {"chi1_jumps": agreement(target, target)["chi1_jumps"]},
    }
