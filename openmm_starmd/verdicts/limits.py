"""Where MD frames end and strained or broken ones begin, and what to do about a frame beyond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.defects import OUTLIERS_MILD, Quality
from openmm_starmd.geometry.superposition import rmsd
from openmm_starmd.verdicts.report import Finding

if TYPE_CHECKING:
    from openmm_starmd.verdicts.judging import Figures
    from openmm_starmd.verdicts.report import Verdict

_NAMED = 6  # residues of one finding that are listed


@dataclass(frozen=True)
class Limits:
    """Limits on what classical MD makes of a frame; each first for strained, then for broken.

    The first lie 1.3 to 3 times beyond the extremes, in parentheses, of 19 MD frames of six training proteins (villin,
    1gjs_A, 2wqg_A, 6fvc_A, EEHEE_rd3_1587_A, HHH_rd2_0181_A), placed from rigids and torsions, minimised for 50 or 100
    iterations and simulated for 1 ps. The second are chosen, not measured. Error rates of both on other frames:
    ``benchmarks/verdict_error_rates.py``.

    Attributes
    ----------
    energy : tuple of float
        Energy after minimisation above that of the start structure minimised alike, kJ/mol per residue (8.3, where a
        bounded minimisation had stopped early; 2.7 elsewhere). Not judged where there is free solvent.
    moved : tuple of float
        Backbone RMSD by which minimisation moves the frame, nm (0.018; 0.037 with 400 iterations).
    force : tuple of float
        Largest force that minimisation leaves on a heavy atom with its hydrogens, kJ/mol/nm (1300).
    drift : tuple of float
        Backbone RMSD at the end of the segment, in units of the expected spread (1.3).
    heat : tuple of float
        Temperature in the second half of the segment, in units of the thermostat's (0.90: it warms up from a minimum).
    contacts : float
        Share of the frame's contacts that must survive the segment for its fold to have held (1.0). Of 68 runs of MD,
        unfolding ones among them, 99 % of the pairs 1 ps apart keep 0.75 and 15 ps apart 0.52 without the tolerance.
    """

    energy: tuple[float, float] = (15.0, 40.0)
    moved: tuple[float, float] = (0.05, 0.15)
    force: tuple[float, float] = (3000.0, 20000.0)
    drift: tuple[float, float] = (2.0, 4.0)
    heat: tuple[float, float] = (1.15, 2.0)
    contacts: float = 0.6

    def energy_findings(self, figures: Figures | Verdict, moved: Sequence[str]) -> list[Finding]:
        """What minimisation tells; `moved` are the residues it moved most."""
        excess = (figures.energy_minimized - figures.energy_start) / figures.count
        found = []
        for kind, value, limits, says, residues in (
            (
                "energy",
                excess,
                self.energy,
                f"after minimisation the energy is {excess:.1f} kJ/mol per residue above the start's",
                (figures.force_residue,),
            ),
            (
                "moved",
                figures.moved,
                self.moved,
                f"minimisation moved the backbone by {10 * figures.moved:.2f} Å",
                moved,
            ),
            (
                "force",
                figures.force,
                self.force,
                f"minimisation leaves a force of {figures.force:.0f} kJ/mol/nm on {figures.force_residue}",
                (figures.force_residue,),
            ),
        ):
            if value > limits[0]:
                found.append(
                    Finding(kind, value > limits[1], f"{says} (limit {_shown(kind, limits[0])})", tuple(residues))
                )
        return found

    def dynamics_findings(self, figures: Figures | Verdict, moved: Sequence[str]) -> list[Finding]:
        """What the segment tells; `moved` are the residues that moved most in it."""
        found = []
        ratio = figures.drift / figures.spread if figures.spread > 0 else math.inf
        if ratio > self.drift[0]:
            text = (
                f"the backbone drifted {ratio:.1f} times as far as expected in {figures.duration:g} ps "
                f"({10 * figures.drift:.2f} against {10 * figures.spread:.2f} Å, limit {self.drift[0]:g} times)"
            )
            found.append(Finding("drift", ratio > self.drift[1], text, tuple(moved)))
        heat = figures.temperature / figures.temperature_set
        if heat > self.heat[0]:
            text = f"strain heated it to {figures.temperature:.0f} K (thermostat {figures.temperature_set:g} K)"
            found.append(Finding("temperature", heat > self.heat[1], text, tuple(moved)))
        # contacts come and go in a loose protein: their loss counts only where the drift is beyond the expected, too
        if figures.contacts < self.contacts and ratio > self.drift[0]:
            text = f"only {100 * figures.contacts:.0f} % of its contacts survive the segment: the fold does not hold"
            found.append(Finding("fold", True, text, tuple(moved)))
        return found


LIMITS = Limits()


def geometry_findings(quality: Quality, labels: Sequence[str], limits: Limits, prefix: str) -> list[Finding]:
    """One finding for each kind of defect, the worst examples named.

    Parameters
    ----------
    quality : Quality
    labels : sequence of str [N]
        Of the residues.
    limits : Limits
    prefix : str
        Begins each text: when it was seen.
    """
    found = []
    for kind in ("position", "chirality", "break", "bond", "peptide", "clash"):
        for grave in (True, False):
            defects = [d for d in quality.defects if d.kind == kind and d.grave == grave]
            if not defects:
                continue
            defects.sort(key=lambda d: -abs(d.value))
            more = f" and {len(defects) - 1} more" if len(defects) > 1 else ""
            residues = tuple(dict.fromkeys(labels[i] for d in defects[:_NAMED] for i in d.residues))
            found.append(Finding(kind, grave, f"{prefix}{defects[0].describe(labels)}{more}", residues))
    if quality.ramachandran > OUTLIERS_MILD:
        outliers = [labels[d.residues[0]] for d in quality.defects if d.kind == "outlier"]
        # one or two outliers are a large share of a small protein
        if len(outliers) > 2:
            text = f"{prefix}{100 * quality.ramachandran:.0f} % Ramachandran outliers: {', '.join(outliers[:_NAMED])}"
            found.append(Finding("outlier", False, text, tuple(outliers[:_NAMED])))
    return found


def advise(status: str, findings: Sequence[Finding]) -> str:
    """What to do about a frame.

    Parameters
    ----------
    status : {"pass", "strained", "broken"}
    findings : sequence of Finding
        The worst first.
    """
    if status == "pass":
        return "go on"
    if status == "strained":
        return (
            "go on from a minimised frame: simulation.minimizeEnergy(), or a few strides in simulation.classical(). If "
            "most frames are strained, the protein or the stride is unlike what the weights were trained on"
        )
    worst = findings[0].kind
    if worst in ("chirality", "peptide"):
        return (
            "drop the frame: a force field keeps the wrong hand or the twisted peptide. Go back to the last good frame "
            "(policies.alternate does), and check the start structure if it comes again"
        )
    if worst in ("position", "refused"):
        return "drop the frame: no force field can start from it. Go back to the last good frame"
    if worst in ("drift", "fold", "temperature"):
        return (
            "drop the frame, or find out by a longer segment whether the fold is lost for good: it does not stand by "
            "itself in this force field"
        )
    return "drop the frame and go back to the last good one; if it comes again, shorten the stride"


def _shown(kind: str, limit: float) -> str:
    return f"{10 * limit:g} Å" if kind == "moved" else f"{limit:g}"


GROWTH = 0.14
"""Exponent of backbone RMSD against lag, 1 to 15 ps: medians over the MD of 68 training proteins."""


@dataclass(frozen=True)
class Spread:
    """Mean backbone RMSD between frames a lag apart.

    Attributes
    ----------
    lags : tuple of float
        ps, ascending.
    values : tuple of float
        nm.
    source : str
        Where they come from, for people to read.
    """

    lags: tuple[float, ...]
    values: tuple[float, ...]
    source: str

    @classmethod
    def from_frames(cls, backbones: NDArray[np.floating], stride: float, source: str) -> Spread:
        """Measure it on frames.

        Parameters
        ----------
        backbones : ndarray [frames, N, 3, 3]
            N, CA, C of consecutive frames, nm; at least two.
        stride : float
            ps between them.
        source : str

        Returns
        -------
        Spread
            Of the lags from one frame to half of the frames.
        """
        frames = np.asarray(backbones, dtype=np.float64).reshape(len(backbones), -1, 3)
        if len(frames) < 2:
            raise ValueError(f"{len(frames)} frame(s) tell no spread: at least two are needed")
        # ten lags are enough, for the RMSD grows smoothly between them
        lags = np.unique(np.geomspace(1, max(1, len(frames) // 2), 10).astype(int)).tolist()
        values = []
        for lag in lags:
            step = max(1, (len(frames) - lag) // 100)
            values.append(float(rmsd(frames[lag::step], frames[:-lag:step]).mean()))
        return cls(tuple(stride * lag for lag in lags), tuple(values), source)

    def at(self, lag: float) -> float:
        """RMSD at a lag in ps, nm; between and beyond the measured lags it grows as lag to the power `GROWTH`."""
        nearest = int(np.abs(np.log(np.array(self.lags) / lag)).argmin())
        return self.values[nearest] * (lag / self.lags[nearest]) ** GROWTH


TRAINING_MD = Spread(
    (1.0, 2.0, 5.0, 10.0, 15.0), (0.069, 0.083, 0.095, 0.101, 0.103), "median of the training proteins' MD"
)
"""Amber14 with OBC2 at 300 K, 68 runs. Of single proteins at 1 ps 0.061 to 0.095 nm, at 10 ps 0.071 to 0.34 nm."""
