"""One PNG that says what a run did: RMSD to the start, radius of gyration, RMSF per residue, share of valid frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.flexibility import radius_of_gyration, rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.evaluation.canvas import blank_figure, save_png
from openmm_starmd.geometry.superposition import rmsd

# Blue and orange of Okabe and Ito, told apart by every kind of colour vision.
_MODEL, _REFERENCE = "#0072B2", "#D55E00"


def figures(
    trajectory: mdtraj.Trajectory, start: mdtraj.Trajectory, interval: float | None = None
) -> dict[str, NDArray[Any]]:
    """What the picture shows.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        Frames in order.
    start : mdtraj.Trajectory
        Start structure, one frame of the same residues; decides which neighbours are bonded.
    interval : float, optional
        Time between frames, ps; the trajectory's own times by default.

    Returns
    -------
    dict
        ``time`` [frames] ps, ``rmsd`` [frames] nm, ``rg`` [frames] nm, ``valid`` [frames] bool, ``rmsf`` [N] nm (nan
        for a single frame), ``residue`` [N] int.

    Raises
    ------
    ValueError
        If the two differ in their number of residues.
    """
    indices, start_indices = alpha_carbons(trajectory.topology), alpha_carbons(start.topology)
    if len(indices) != len(start_indices):
        raise ValueError(
            f"the trajectory has {len(indices)} residues and the start structure {len(start_indices)}; "
            "they must be of one protein"
        )
    alphas = trajectory.xyz[:, indices].astype(np.float64)
    first = start.xyz[0, start_indices].astype(np.float64)
    frames = len(alphas)
    return {
        "time": trajectory.time if interval is None else interval * np.arange(1, frames + 1),
        "rmsd": rmsd(alphas, first),
        "rg": radius_of_gyration(alphas),
        "valid": judge(alphas, bonded_neighbours(start)).valid,
        "rmsf": rmsf(alphas) if frames > 1 else np.full(len(indices), np.nan),
        "residue": np.arange(1, len(indices) + 1),
    }


def draw(
    path: str | os.PathLike[str],
    model: dict[str, NDArray[Any]],
    reference: dict[str, NDArray[Any]] | None = None,
    *,
    title: str = "",
) -> Path:
    """Draw the picture.

    Parameters
    ----------
    path : path
        PNG to write; an older one is replaced in one move.
    model : dict
        From :func:`figures`.
    reference : dict, optional
        The same of an MD trajectory of the same protein, drawn over it. It need not be of the same length.
    title : str

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    figure, axes = blank_figure("the picture", 10, 7, rows=2, columns=2)
    runs = [("STAR-MD", _MODEL, model)] + ([("MD", _REFERENCE, reference)] if reference is not None else [])
    for label, color, run in runs:
        axes[0, 0].plot(run["time"], 10 * run["rmsd"], color=color, label=label, linewidth=1)
        axes[0, 1].plot(run["time"], 10 * run["rg"], color=color, label=label, linewidth=1)
        axes[1, 0].plot(run["residue"], 10 * run["rmsf"], color=color, label=label, linewidth=1.5)
        share = 100 * np.cumsum(run["valid"]) / np.arange(1, len(run["valid"]) + 1)
        axes[1, 1].plot(run["time"], share, color=color, label=f"{label}: {share[-1]:.1f} % of {len(share)}")
    for panel, (name, across, up) in zip(
        axes.flat,
        [
            ("RMSD to start (Cα)", "time (ps)", "Å"),
            ("Radius of gyration (Cα)", "time (ps)", "Å"),
            ("RMSF (Cα)", "residue", "Å"),
            ("Valid frames so far", "time (ps)", "%"),
        ],
        strict=True,
    ):
        panel.set(title=name, xlabel=across, ylabel=up)
        panel.grid(alpha=0.3)
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylim(bottom=0)
    axes[1, 1].set_ylim(-3, 103)
    axes[1, 1].legend(loc="lower left")
    if reference is not None:
        axes[0, 0].legend(loc="best")
    if title:
        figure.suptitle(title)
    return save_png(figure, path, dpi=120)
