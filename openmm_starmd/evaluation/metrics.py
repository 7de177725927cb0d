"""A reference with all that is fitted on it, and the figures of a run measured against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis import coverage as cover
from openmm_starmd.analysis import dynamics
from openmm_starmd.analysis.flexibility import (
    FEWEST,
    agreement,
    contact_probabilities,
    pairwise_rmsd,
    persistence,
    radius_of_gyration,
    rmsd_against_lag,
    rmsf,
)
from openmm_starmd.evaluation.runs import Run
from openmm_starmd.geometry.superposition import rmsd

NAN = float("nan")


@dataclass(frozen=True)
class Settings:
    """Choices that decide the figures; they are stated beside them.

    Attributes
    ----------
    bins, dimensions : int
        Of the histogram in principal components.
    base, root
        Of the Jensen-Shannon distance.
    components : int
        Principal components of the autocorrelation.
    states : int
        Of the Markov state model.
    frames : int, optional
        Upper bound on the matched frames.
    networks : bool
        Sample elastic networks as further floors.
    seed : int
        Of k-means and the elastic networks.
    """

    bins: int = cover.BINS
    dimensions: int = cover.DIMENSIONS
    base: float = 2.0
    root: bool = True
    components: int = dynamics.COMPONENTS
    states: int = 5
    frames: int | None = None
    networks: bool = True
    seed: int = 0


@dataclass
class Row:
    """One run.

    Attributes
    ----------
    label : str
    kind : str
        ``"reference"``, ``"replica"`` (another reference: the ceiling), ``"generated"`` or ``"floor"``.
    figures : dict of str to float
    curves : dict of str to ndarray
        ``points`` [frames, 2], ``rmsf`` [N], ``rg`` and ``rmsd`` [frames], ``lag`` and ``autocorrelation`` [lags],
        ``contacts`` [N, N], ``timescales`` [lags, 3], ``counts`` [states, states], ``snapshots`` [picked, N, 3];
        lengths in nm, times in ps; ``valid`` and ``valid_atoms`` [all frames].
    """

    label: str
    kind: str
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, NDArray[Any]] = field(default_factory=dict)


class ReferenceMetrics:
    """A reference and all that is fitted on it.

    Parameters
    ----------
    reference : Run
        Matched.
    settings : Settings
    lags : dict
        From :func:`openmm_starmd.evaluation.evaluate.choose_lags`.
    """

    def __init__(self, reference: Run, settings: Settings, lags: dict[str, list[int]]) -> None:
        self.reference, self.settings, self.lags = reference, settings, lags
        wide = max(settings.components, dynamics.SLOW, settings.dimensions)
        self.projection = cover.fit_projection(reference.alphas[reference.valid], wide)
        self.points = self.projection.transform(reference.alphas)
        self.states = dynamics.find_states(self.points, settings.states, seed=settings.seed)
        self.rmsf = rmsf(reference.alphas)
        self.lag = rmsd_against_lag(reference.alphas, lags["rmsd"])
        self.autocorrelation = self._autocorrelation(self.points)
        self.contacts = contact_probabilities(reference.alphas)
        self.start = reference.alphas[0].astype(np.float64)

    def _autocorrelation(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return dynamics.autocorrelation(points[:, : self.settings.components], self.lags["autocorrelation"])

    def measure(self, run: Run, whole: Run, kind: str) -> Row:
        """Figures and curves of a matched run; validity is that of the whole one."""
        row = Row(run.label, kind)
        row.curves |= {"valid": whole.valid, "valid_atoms": whole.valid_atoms}
        atoms = whole.atoms
        row.figures |= {
            "frames": float(len(whole)),
            "valid": float(whole.valid.mean()),
            "valid_atoms": float(whole.valid_atoms.mean()) if atoms.judged["ramachandran"] else NAN,
            "ramachandran": float(np.mean(atoms.ramachandran)),
            "rotamer": float(np.mean(atoms.rotamer)),
            "bad_bonds": float(np.mean(atoms.bad_bonds)),
            "twisted": float(np.mean(atoms.twisted)),
            "cis": float(np.mean(atoms.cis)),
            "inverted": float(np.mean(atoms.inverted)) if atoms.judged["centers"] else NAN,
        }
        covered = cover.coverage(
            self.reference.alphas,
            run.alphas,
            valid=(self.reference.valid, run.valid),
            bins=self.settings.bins,
            dimensions=self.settings.dimensions,
            base=self.settings.base,
            root=self.settings.root,
            projection=self.projection,
        )
        row.figures |= {key: getattr(covered, key) for key in ("jsd", "recall", "precision", "f1")}
        row.figures["counted"] = float(covered.frames[1])
        if np.isfinite(run.alphas).all():
            self._flexibility(run, row)
            self._dynamics(run, row)
        return row

    def _flexibility(self, run: Run, row: Row) -> None:
        """RMSF, contacts, size and secondary structure."""
        fluctuation, contacts = rmsf(run.alphas), contact_probabilities(run.alphas)
        # of fewer frames an RMSF is noise
        beside = agreement(fluctuation, [self.rmsf]) if len(run) >= FEWEST else None
        size, away = radius_of_gyration(run.alphas), rmsd(run.alphas, self.start)
        known = np.isfinite(contacts) & ((contacts > 0) | (self.contacts > 0))
        row.curves |= {"rmsf": fluctuation, "contacts": contacts, "rg": size, "rmsd": away}
        picked = run.alphas[np.unique(np.linspace(0, len(run) - 1, 24).round().astype(int))]
        row.curves["snapshots"] = picked
        row.figures |= {
            "rmsf_correlation": beside.correlation if beside else NAN,
            "rmsf_amplitude": beside.amplitude if beside else NAN,
            "contact_error": float(np.abs(contacts - self.contacts)[known].mean()) if known.any() else NAN,
            "rg": float(size.mean()),
            "rg_spread": float(size.std()),
            "rmsd_to_start": float(away.mean()),
            "pairwise_rmsd": float(pairwise_rmsd(run.alphas, most=100).mean()),
            "pairwise_rmsd_to_reference": float(pairwise_rmsd(run.alphas, self.reference.alphas, most=100).mean()),
        }
        if run.codes is not None and self.reference.codes is not None:
            lasting = persistence(run.codes, self.reference.codes[0])
            row.figures["persistence"] = float(np.nanmean(lasting)) if np.isfinite(lasting).any() else NAN

    def _dynamics(self, run: Run, row: Row) -> None:
        """Lag curves, slow modes, kinetics."""
        points = self.projection.transform(run.alphas)
        lag, autocorrelation = rmsd_against_lag(run.alphas, self.lags["rmsd"]), self._autocorrelation(points)
        states = self.states.assign(points)
        moving = points.std(0).max() > 1e-6
        count = len(self.states.centers)
        counts = dynamics.transition_counts(states, count)
        nothing = np.full((len(self.lags["msm"]), 3), np.nan)
        times = dynamics.implied_timescales(states, self.lags["msm"], run.stride) if moving else nothing
        tau = self.lags["tica"][0]
        row.curves |= {
            "points": points[:, :2],
            "lag": lag,
            "autocorrelation": autocorrelation,
            "timescales": times,
            "counts": counts,
        }
        row.figures |= {
            "lag_error": dynamics.relative_error(lag, self.lag),
            "autocorrelation_error": float(np.mean(np.abs(autocorrelation - self.autocorrelation))),
            "timescale": float(times[len(times) // 2, 0]),
            "transitions": float(counts.sum() - np.trace(counts)),
        }
        enough = len(run) - tau > 2 * dynamics.SLOW
        row.figures["tica"] = (
            dynamics.tica_agreement(self.points, points, self.projection, tau) if enough and moving else NAN
        )
        row.figures["vamp2_gap"] = dynamics.vamp2_gap(self.points, points, tau)[1] if enough else NAN
