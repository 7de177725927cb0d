"""The plots of the report, each a matplotlib figure made of an evaluation."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from openmm_starmd.evaluation.canvas import blank_figure
from openmm_starmd.evaluation.evaluate import Evaluation
from openmm_starmd.evaluation.metrics import Row

# Okabe and Ito, told apart by every kind of colour vision; the reference is orange as in the run's picture.
_COLORS = {
    "reference": ["#D55E00"],
    "replica": ["#E69F00", "#F0E442"],
    "generated": ["#0072B2", "#009E73", "#56B4E9", "#CC79A7"],
    "floor": ["#555555", "#888888", "#BBBBBB"],
}
_FLOOR = 6.0  # kT: what is rarer is not told from what is empty


def colors(rows: list[Row]) -> list[str]:
    """A colour for each row, by its kind."""
    seen: dict[str, int] = {}
    chosen = []
    for row in rows:
        palette = _COLORS[row.kind]
        place = seen.get(row.kind, 0)
        seen[row.kind] = place + 1
        chosen.append(palette[place % len(palette)])
    return chosen


def _manner(row: Row) -> dict[str, Any]:
    """Floors are dashed and lie under everything."""
    return {"linestyle": "--", "zorder": 1} if row.kind == "floor" else {"linestyle": "-", "zorder": 2}


def _panels(width: float, height: float, columns: int) -> tuple[Any, Any]:
    """A figure with panels side by side."""
    figure, axes = blank_figure("the report", width, height, columns=columns)
    return figure, axes[0]


def as_data_uri(figure: Any) -> str:
    """A figure as a PNG within a URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def free_energy(evaluation: Evaluation) -> Any:
    """Free energy -ln p in kT over the reference's first two components, one panel per run, equal axes and colours."""
    rows = [r for r in evaluation.rows if "points" in r.curves and np.ptp(r.curves["points"]) > 1e-6][:6]
    points = [_two(r.curves["points"]) * 10 for r in rows]
    low, high = (f([f(p, 0) for p in points], 0) for f in (np.min, np.max))
    margin = 0.05 * (high - low) + 1e-6
    figure, axes = _panels(3.1 * len(rows) + 0.9, 3.3, len(rows))
    bins = int(np.clip(np.sqrt(len(points[0])) * 1.5, 12, 50))
    edges = [np.linspace(low[k] - margin[k], high[k] + margin[k], bins + 1) for k in (0, 1)]
    for panel, row, xy in zip(axes, rows, points, strict=True):
        counts = np.histogram2d(xy[:, 0], xy[:, 1], bins=edges)[0]
        with np.errstate(divide="ignore"):
            energy = -np.log(counts / counts.max())
        energy[energy > _FLOOR] = _FLOOR
        energy[counts == 0] = np.nan
        image = panel.pcolormesh(edges[0], edges[1], energy.T, cmap="viridis", vmin=0, vmax=_FLOOR)
        panel.plot(*xy[0], marker="x", color="#D55E00", markersize=8, markeredgewidth=2)
        panel.set(title=_short(row.label), xlabel="PC1 (Å)")
        panel.grid(alpha=0.2)
    axes[0].set_ylabel("PC2 (Å)")
    figure.colorbar(image, ax=list(axes), label="free energy (kT)")
    return figure


def _two(points: np.ndarray) -> np.ndarray:
    """Points with two columns, even where the reference has one component only."""
    return points if points.shape[1] == 2 else np.hstack([points, np.zeros((len(points), 1))])


def _short(label: str, most: int = 26) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def profiles(evaluation: Evaluation) -> Any:
    """RMSF, RMSD against lag, autocorrelation."""
    figure, axes = _panels(13, 3.8, 3)
    stride = evaluation.match.stride
    lags = {key: stride * np.array(value) for key, value in evaluation.lags.items()}
    for row, color in zip(evaluation.rows, colors(evaluation.rows), strict=True):
        if "rmsf" not in row.curves:
            continue
        style = {"color": color, "linewidth": 1.6, **_manner(row)}
        fluctuation = 10 * row.curves["rmsf"]
        axes[0].plot(np.arange(1, len(fluctuation) + 1), fluctuation, label=_short(row.label), **style)
        axes[1].plot(lags["rmsd"], 10 * row.curves["lag"], marker=".", **style)
        axes[2].plot(lags["autocorrelation"], row.curves["autocorrelation"], **style)
    axes[0].set(title="RMSF (Cα)", xlabel="residue", ylabel="Å")
    axes[1].set(title="RMSD against lag", xlabel="lag (ps)", ylabel="Å", xscale="log")
    axes[2].set(title="Autocorrelation in principal components", xlabel="lag (ps)")
    axes[2].axhline(0, color="black", linewidth=0.6)
    for panel in axes:
        panel.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure


def validity(evaluation: Evaluation, blocks: int = 20) -> Any:
    """Share of valid frames per block of time, by the Cα trace and with the other atoms; all frames of each run."""
    figure, axes = _panels(13, 3.2, 2)
    for row, color in zip(evaluation.rows, colors(evaluation.rows), strict=True):
        for panel, key in zip(axes, ("valid", "valid_atoms"), strict=True):
            verdicts = row.curves[key]
            if key == "valid_atoms" and not np.isfinite(row.figures["valid_atoms"]):
                continue
            parts = np.array_split(verdicts.astype(float), min(blocks, len(verdicts)))
            middle = (np.arange(len(parts)) + 0.5) / len(parts)
            panel.plot(
                100 * middle, [100 * p.mean() for p in parts], color=color, label=_short(row.label), linewidth=1.4
            )
    for panel, name in zip(axes, ("Cα trace", "Cα trace, Ramachandran and rotamers"), strict=True):
        panel.set(title=f"Valid frames: {name}", xlabel="% of the run", ylabel="% of the block", ylim=(-3, 103))
        panel.grid(alpha=0.3)
    axes[0].legend(fontsize=8, loc="lower left")
    return figure


def contacts(evaluation: Evaluation) -> Any:
    """Contact probabilities: the reference above the diagonal, a run below, one panel per run."""
    reference = evaluation.rows[0].curves["contacts"]
    rows = [r for r in evaluation.rows[1:] if "contacts" in r.curves][:5]
    if not rows:
        return None
    figure, axes = _panels(3.1 * len(rows) + 0.9, 3.4, len(rows))
    n = len(reference)
    upper = np.triu(np.ones((n, n), dtype=bool))
    for panel, row in zip(axes, rows, strict=True):
        both = np.where(upper, reference, row.curves["contacts"])
        image = panel.imshow(
            both,
            cmap="Greys",
            vmin=0,
            vmax=1,
            origin="upper",
            extent=(0.5, n + 0.5, n + 0.5, 0.5),
            interpolation="none",
        )
        panel.plot([0.5, n + 0.5], [0.5, n + 0.5], color="#D55E00", linewidth=0.8)
        panel.set(title=_short(row.label), xlabel="residue")
    axes[0].set_ylabel("residue")
    figure.colorbar(image, ax=list(axes), label="probability of contact")
    return figure


def structure_and_kinetics(evaluation: Evaluation) -> Any:
    """RMSD to the start and radius of gyration in time, implied timescales against lag."""
    figure, axes = _panels(13, 3.6, 3)
    stride = evaluation.match.stride
    lags = stride * np.array(evaluation.lags["msm"])
    for row, color in zip(evaluation.rows, colors(evaluation.rows), strict=True):
        if "rmsd" not in row.curves:
            continue
        time = stride * np.arange(len(row.curves["rmsd"]))
        style = {"color": color, **_manner(row)}
        axes[0].plot(time, 10 * row.curves["rmsd"], linewidth=0.9, label=_short(row.label), **style)
        axes[1].plot(time, 10 * row.curves["rg"], linewidth=0.9, **style)
        axes[2].plot(lags, row.curves["timescales"][:, 0], marker="o", markersize=3, **style)
    axes[2].fill_between(lags, 0, lags, color="#DDDDDD", label="faster than the lag")
    axes[0].set(title="RMSD to the reference's first frame", xlabel="time (ps)", ylabel="Å")
    axes[1].set(title="Radius of gyration (Cα)", xlabel="time (ps)", ylabel="Å")
    axes[2].set(title="Slowest implied timescale", xlabel="lag (ps)", ylabel="ps")
    for panel in axes:
        panel.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    axes[2].legend(fontsize=8)
    return figure
