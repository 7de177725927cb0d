"""Every figure at once: runs beside a reference, with a ceiling (a second reference) and a floor in the same table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.flexibility import FEWEST, Agreement, correlation, rmsf, rmsf_agreement
from openmm_starmd.analysis.matching import Match, plan
from openmm_starmd.analysis.network_models import FLOOR, network_rmsf
from openmm_starmd.evaluation import floors
from openmm_starmd.evaluation.metrics import NAN, ReferenceMetrics, Row, Settings
from openmm_starmd.evaluation.runs import Run
from openmm_starmd.files.writing import write_text


class Column(NamedTuple):
    """A figure as tables show it: by its key, times a scale, with so many digits."""

    key: str
    heading: str
    scale: int
    digits: int

    def show(self, figures: dict[str, float]) -> str:
        """The figure of one row; a dash for what is not known."""
        value = figures.get(self.key, NAN)
        return f"{self.scale * value:.{self.digits}f}" if np.isfinite(value) else "-"


COLUMNS = (
    Column("valid", "valid Cα %", 100, 1),
    Column("valid_atoms", "valid all atoms %", 100, 1),
    Column("jsd", "JSD", 1, 2),
    Column("recall", "recall", 1, 2),
    Column("precision", "precision", 1, 2),
    Column("f1", "F1", 1, 2),
    Column("rmsf_correlation", "RMSF r", 1, 2),
    Column("rmsf_amplitude", "RMSF amplitude", 1, 2),
    Column("lag_error", "RMSD-lag err.", 1, 2),
    Column("autocorrelation_error", "autocorr. err.", 1, 2),
    Column("tica", "tICA r", 1, 2),
    Column("vamp2_gap", "VAMP-2 gap", 1, 2),
    Column("timescale", "slowest (ps)", 1, 1),
    Column("transitions", "transitions", 1, 0),
    Column("contact_error", "contact err.", 1, 3),
    Column("rmsd_to_start", "RMSD to start (Å)", 10, 2),
    Column("rg", "Rg (Å)", 10, 2),
    Column("persistence", "SS persistence", 1, 2),
)


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes
    ----------
    rows : list of Row
        The reference first.
    settings : Settings
    match : Match
    lags : dict of str to list of int
        In frames: ``rmsd``, ``autocorrelation``, ``msm``, ``tica``.
    residues : tuple of str
    bonded : ndarray [N-1], bool
    notes : list of str
        What a reader must know beside the numbers.
    pooled : Agreement or None
        RMSF of all generated runs pooled, beside all references; None unless there are several of either, all finite
        and of :data:`~openmm_starmd.analysis.flexibility.FEWEST` frames at least.
    """

    rows: list[Row]
    settings: Settings
    match: Match
    lags: dict[str, list[int]]
    residues: tuple[str, ...]
    bonded: NDArray[np.bool_]
    notes: list[str]
    pooled: Agreement | None = None

    @property
    def columns(self) -> list[Column]:
        """Those of :data:`COLUMNS` that are known of any run."""
        return [c for c in COLUMNS if any(np.isfinite(row.figures.get(c.key, NAN)) for row in self.rows)]

    def table(self) -> str:
        """Markdown: one row per run, and the choices behind the figures under it."""
        columns = self.columns
        lines = [
            "| run | kind | " + " | ".join(c.heading for c in columns) + " |",
            "|---|---|" + "---|" * len(columns),
        ]
        for row in self.rows:
            cells = [column.show(row.figures) for column in columns]
            lines.append(f"| {row.label} | {row.kind} | {' | '.join(cells)} |")
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """Figures and small curves, ready for JSON (nan becomes null)."""
        kept = ("rmsf", "lag", "autocorrelation", "timescales", "counts")
        return {
            "settings": asdict(self.settings),
            "matched": {**asdict(self.match), "span": self.match.span},
            "lags": self.lags,
            "residues": "".join(self.residues),
            "notes": self.notes,
            "pooled": None if self.pooled is None else {k: _plain(v) for k, v in self.pooled._asdict().items()},
            "runs": [
                {
                    "label": row.label,
                    "kind": row.kind,
                    "figures": {k: _plain(v) for k, v in row.figures.items()},
                    "curves": {k: _plain(v) for k, v in row.curves.items() if k in kept},
                }
                for row in self.rows
            ],
        }

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`as_dict`; an older file is replaced in one move."""
        write_text(path, json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return Path(path)


def _plain(value: Any) -> Any:
    """Numbers and arrays as JSON has them."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def evaluate(references: Sequence[Run], generated: Sequence[Run], settings: Settings | None = None) -> Evaluation:
    """Compare runs with a reference.

    Parameters
    ----------
    references : sequence of Run
        The first is the reference; the others are held against it like any run, as the ceiling.
    generated : sequence of Run
    settings : Settings, optional

    Returns
    -------
    Evaluation
        All runs are thinned to the coarsest stride and cut to the shortest span before they are compared; validity
        alone is of all frames.

    Raises
    ------
    ValueError
        If there is nothing to compare, the residues differ, the strides cannot be matched, or the reference has fewer
        than two valid frames.
    """
    settings = settings or Settings()
    runs = [*references, *generated]
    if not references or len(runs) < 2:
        raise ValueError("an evaluation needs one reference and at least one other run")
    for run in runs[1:]:
        _same_residues(runs[0], run)
    how = plan([len(run) for run in runs], [run.stride for run in runs], settings.frames)
    matched = [run.thinned(step, how.frames) for run, step in zip(runs, how.steps, strict=True)]
    reference = matched[0]
    if reference.valid.sum() < 2 or not np.isfinite(reference.alphas).all():
        raise ValueError(
            f"the reference {reference.label} has {int(reference.valid.sum())} valid frames of {len(reference)}: check "
            "that its molecules are whole (not wrapped in a periodic box) and its atoms in the topology's order"
        )
    lags = choose_lags(how.frames)
    metrics = ReferenceMetrics(reference, settings, lags)
    kinds = ["reference"] + ["replica"] * (len(references) - 1) + ["generated"] * len(generated)
    rows = [metrics.measure(m, whole, kind) for m, whole, kind in zip(matched, runs, kinds, strict=True)]
    extra = [reference.frozen(how.frames)]
    if settings.networks and how.frames > 2:
        extra += floors.network_runs(reference, settings.seed)
    rows += [metrics.measure(run, run, "floor") for run in extra]
    md, drawn = matched[: len(references)], matched[len(references) :]
    pooled = _pooled(md, drawn)
    notes = [*_notes(runs, how, metrics), *_flexibility_notes(md, drawn, pooled, metrics)]
    return Evaluation(rows, settings, how, lags, reference.residues, reference.bonded, notes, pooled)


def choose_lags(frames: int) -> dict[str, list[int]]:
    """Lags in frames for so many frames: up to half the span, a quarter for autocorrelation, a tenth for kinetics."""

    def spread(top: int, count: int) -> list[int]:
        return [int(x) for x in np.unique(np.geomspace(1, max(1, top), count).round().astype(int))]

    return {
        "rmsd": spread(frames // 2, 16),
        "autocorrelation": [int(x) for x in np.unique(np.linspace(0, max(1, frames // 4), 64).round().astype(int))],
        "msm": spread(frames // 10, 6),
        "tica": [max(1, frames // 20)],
    }


def _same_residues(first: Run, other: Run) -> None:
    """Raise unless two runs are of one protein."""
    if len(first.residues) != len(other.residues):
        raise ValueError(
            f"{first.label} has {len(first.residues)} residues and {other.label} {len(other.residues)}: cut both to "
            "the residues they share"
        )
    for i, (a, b) in enumerate(zip(first.residues, other.residues, strict=True)):
        if a != b and "X" not in (a, b):
            raise ValueError(
                f"residue {i + 1} is {a} in {first.label} and {b} in {other.label}: they are not of one protein"
            )


def _pooled(references: list[Run], generated: list[Run]) -> Agreement | None:
    """RMSF of all generated runs beside all references, where there are several of either."""
    if not generated or len(references) + len(generated) < 3:
        return None
    if not all(np.isfinite(run.alphas).all() for run in references):
        return None
    found = rmsf_agreement([run.alphas for run in generated], [run.alphas for run in references])
    return found if np.isfinite(found.amplitude) else None


def _flexibility_notes(
    references: list[Run], generated: list[Run], pooled: Agreement | None, metrics: ReferenceMetrics
) -> list[str]:
    """What stands beside the RMSF, in sentences: a ceiling, a floor for all proteins, runs pooled."""
    first, frames = references[0], len(references[0])
    if frames < FEWEST:
        return [f"RMSF r and amplitude are not given: of {frames} frames they are noise, {FEWEST} are needed"]
    said = []
    if pooled is not None:
        by_reference = ", ".join(
            f"{r:.2f} with {run.label}" for r, run in zip(pooled.correlations, references, strict=True)
        )
        runs = f"the {len(generated)} generated runs" if len(generated) > 1 else generated[0].label
        beside = "all references pooled" if len(references) > 1 else first.label
        said.append(
            f"RMSF of {runs}, pooled (root mean square; meant for seeds of one model): r {by_reference}"
            + (f", mean {pooled.correlation:.2f}" if len(references) > 1 else "")
            + f"; amplitude {pooled.amplitude:.2f} of {beside}"
        )
    if len(references) > 1 and np.isfinite(references[1].alphas).all():
        between = correlation(rmsf(references[1].alphas), metrics.rmsf)
        said.append(f"ceiling of RMSF r: {between:.2f}, of {references[1].label} with {first.label}")
    if not metrics.settings.networks:
        return said
    start = first.alphas[0].astype(np.float64)
    best = floors.best_network(start, metrics.rmsf, first.bonded)
    floor, highest = (correlation(network_rmsf(start, name, first.bonded), metrics.rmsf) for name in (FLOOR, best))
    # a reference that does not move has no profile
    if np.isfinite(floor):
        said.append(
            f"floor of RMSF r: {floor:.2f}, of the elastic network {FLOOR} of the first frame, the same for every "
            f"protein (chosen on training proteins); {highest:.2f} of {best}, the {floors.HINDSIGHT}. The networks' "
            "rows are random draws of them"
        )
    return said


def _notes(runs: list[Run], how: Match, metrics: ReferenceMetrics) -> list[str]:
    """The choices behind the figures, in sentences."""
    settings, lags = metrics.settings, metrics.lags
    kind = "distance (square root of the divergence)" if settings.root else "divergence"
    explained = metrics.projection.explained
    cut = [f"{r.label} {len(r)} x {r.stride:g} ps" for r in runs if len(r) != how.frames or r.stride != how.stride]
    counted = int(metrics.reference.valid.sum())
    return [
        f"matched: {how.frames} frames of {how.stride:g} ps, a span of {how.span:g} ps"
        + (f"; thinned or cut: {', '.join(cut)}" if cut else ""),
        "validity is of all frames of each run; Ramachandran and rotamer outliers by our own criteria, with the "
        "paper's limits of 4.12 % and 7.05 % per frame; rotamers only where there are side chains",
        f"JSD: Jensen-Shannon {kind}, base {settings.base:g}, {settings.bins} bins over the reference's range and one "
        f"beyond each end in each of {min(settings.dimensions, len(explained))} principal components of the reference "
        f"({100 * explained[: settings.dimensions].sum():.0f} % of its variance), valid frames only "
        f"({counted} of {len(metrics.reference)} of the reference); recall, precision and F1 on occupied bins",
        f"RMSD-lag err.: mean difference relative to the reference over {len(lags['rmsd'])} lags up to "
        f"{lags['rmsd'][-1] * how.stride:g} ps; autocorr. err.: mean difference over lags up to "
        f"{lags['autocorrelation'][-1] * how.stride:g} ps in {min(settings.components, len(explained))} components",
        f"tICA (Pearson r over residues of the slowest mode's size) and VAMP-2 at a lag of "
        f"{lags['tica'][0] * how.stride:g} ps; slowest implied timescale and transitions between "
        f"{len(metrics.states.centers)} k-means states of the reference in 2 components, at a lag of "
        f"{lags['msm'][len(lags['msm']) // 2] * how.stride:g} and {how.stride:g} ps",
    ]
