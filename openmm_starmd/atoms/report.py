"""What a back-mapped trajectory looks like: clashes and other defects left, frame by frame."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openmm_starmd.files.writing import write_text


@dataclass(frozen=True)
class FrameReport:
    """What became of one frame.

    Attributes
    ----------
    frame : int
        Counted from 0.
    time_ps : float
    clashes : int
        Pairs of residues with heavy atoms more than three bonds apart that overlap by over 0.6 Å, as
        :mod:`openmm_starmd.analysis.defects` defines overlap; MD frames have about none.
    overlap_A : float
        The largest overlap, Å; 0 if none is over 0.6.
    bad_bonds, inverted, twisted : int
        Bonds off by over 0.2 Å, chiral centres of the wrong hand, peptides over 40 degrees out of plane.
    energy_before, energy_after : float or None
        kJ/mol in implicit solvent; None without minimisation.
    moved_A : float or None
        By which minimisation moved N, CA and C (RMSD), Å.
    """

    frame: int
    time_ps: float
    clashes: int
    overlap_A: float  # noqa: N815, a column of the CSV file
    bad_bonds: int
    inverted: int
    twisted: int
    energy_before: float | None = None
    energy_after: float | None = None
    moved_A: float | None = None  # noqa: N815, a column of the CSV file


@dataclass(frozen=True)
class BackmapReport:
    """What became of a trajectory.

    Attributes
    ----------
    source : str
        Atoms the frames had: "ca", "backbone", "heavy" or "all".
    target : str
        "heavy" or "all".
    minimized : bool
    frames : tuple of FrameReport
    """

    source: str
    target: str
    minimized: bool
    frames: tuple[FrameReport, ...]

    def summary(self) -> str:
        """One line."""
        count = len(self.frames)
        clean = sum(not frame.clashes for frame in self.frames)
        clashes = sum(frame.clashes for frame in self.frames)
        text = f"{count} frames, {self.source} to {self.target}: {clashes} clashes left, {clean} frames without"
        others = {
            "bonds off": sum(frame.bad_bonds for frame in self.frames),
            "centres of the wrong hand": sum(frame.inverted for frame in self.frames),
            "twisted peptides": sum(frame.twisted for frame in self.frames),
        }
        text += "".join(f", {number} {what}" for what, number in others.items() if number)
        moved = [frame.moved_A for frame in self.frames if frame.moved_A is not None]
        if moved:
            text += f"; minimisation moved the backbone by {np.mean(moved):.2f} Å (at most {max(moved):.2f})"
        return text

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """A row per frame."""
        text = io.StringIO()
        names = list(FrameReport.__dataclass_fields__)
        if not self.minimized:
            names = names[:-3]
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for frame in self.frames:
            row = {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in asdict(frame).items()}
            writer.writerow(row)
        write_text(Path(path), text.getvalue())
