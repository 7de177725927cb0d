"""How a figure grows with what it costs: ns of training MD, number of proteins, training steps; and where that leads.

    python -m benchmarks.learning_curves --over "ns of training MD" 2.4=a.json 6=b.json 14=c.json \\
        --output benchmarks/results/curves-ns

Each file is one that ``fidelity.py --json`` wrote, with weights trained on so much of it; only the proteins that all
files have are counted. A line through the figure against the logarithm of x is fitted to the means over proteins, with
the standard errors of that fit, and drawn out to ten times the largest x.

A line in the logarithm is a summary of the points, not a law: nothing says that it goes on. With two points it has no
error, and figures that have a ceiling (correlations, shares of valid frames) bend below it. An extrapolation says what
would be worth measuring next.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.results_page import write_json
from openmm_starmd.files.writing import replacing

FIGURES = {
    "rmsf_amplitude": "RMSF amplitude",
    "lowest_amplitude": "RMSF amplitude of the lowest protein",
    "rmsf_correlation": "RMSF r",
    "lag_ratio": "RMSD against lag, mean ratio",
    "longest_lag_ratio": "RMSD against lag, ratio at the longest lag",
    "valid": "valid frames",
    "chi1_alike": "χ1 populations alike",
}
DEMANDED = {"rmsf_amplitude": 0.7, "lowest_amplitude": 0.7, "lag_ratio": 0.7, "longest_lag_ratio": 0.7, "valid": 0.99}
REACH = 10.0
"""The line is drawn out to so many times the largest x."""


@dataclass(frozen=True)
class Line:
    """y = level + slope ln(x / middle).

    Attributes
    ----------
    level, slope : float
    middle : float
        Geometric mean of the x fitted to.
    level_error, slope_error : float
        Standard errors from the scatter of the points; nan for two points.
    """

    level: float
    slope: float
    middle: float
    level_error: float
    slope_error: float

    def at(self, x: NDArray[np.floating] | float) -> tuple[Any, Any]:
        """Value and its standard error at `x`."""
        away = np.log(np.asarray(x, dtype=float) / self.middle)
        return self.level + self.slope * away, np.hypot(self.level_error, self.slope_error * away)

    def reaches(self, target: float) -> float | None:
        """The x at which the line reaches `target`; None where it does not lead there."""
        if self.slope == 0:
            return None
        away = (target - self.level) / self.slope
        return float(self.middle * np.exp(away)) if abs(away) < 50 else None


def fit(x: NDArray[np.floating], y: NDArray[np.floating]) -> Line:
    """Least squares of y against ln x, at least two different x."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(np.unique(x)) < 2 or (x <= 0).any():
        raise ValueError(f"a line needs at least two different x above zero; there are {x.tolist()}")
    logs = np.log(x)
    middle = logs.mean()
    spread = ((logs - middle) ** 2).sum()
    slope = float(((logs - middle) * y).sum() / spread)
    level = float(y.mean())
    rest = y - level - slope * (logs - middle)
    noise = np.sqrt((rest**2).sum() / (len(x) - 2)) if len(x) > 2 else np.nan
    return Line(level, slope, float(np.exp(middle)), float(noise / np.sqrt(len(x))), float(noise / np.sqrt(spread)))


def figure_of(result: dict[str, Any], key: str) -> float | None:
    """A figure of one protein in a file of ``fidelity.py``; None where it was not measured."""
    if key == "longest_lag_ratio":
        return result["model"]["lag_ratios"][-1] if result["model"].get("lag_ratios") else None
    if key == "chi1_alike":
        return result["side_chains"]["model"][key] if result.get("side_chains") else None
    value = result["model"].get("rmsf_amplitude" if key == "lowest_amplitude" else key)
    return value if value is not None and np.isfinite(value) else None


def gather(points: list[tuple[float, dict[str, Any]]], key: str) -> dict[str, list[float]]:
    """Values by protein, over the points in order of x, of the proteins that have the figure at every point."""
    names = set.intersection(*(set(content["proteins"]) for _, content in points))
    values = {
        name: [figure_of(content["proteins"][name], key) for _, content in points]
        for name in points[0][1]["proteins"]
        if name in names
    }
    return {name: found for name, found in values.items() if None not in found}


def describe(points: list[tuple[float, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Values, means and fitted line of each figure that was measured at every point."""
    x = np.array([x for x, _ in points])
    described = {}
    for key in FIGURES:
        values = gather(points, key)
        if not values:
            continue
        each = np.array(list(values.values()))
        over_proteins = each.min(0) if key == "lowest_amplitude" else each.mean(0)
        line = fit(x, over_proteins)
        beyond = {}
        for times in (2.0, REACH):
            value, error = line.at(times * x.max())
            beyond[f"{times:g}x"] = [float(value), float(error) if np.isfinite(error) else None]
        target = DEMANDED.get(key)
        described[key] = {
            "proteins": values,
            "mean": over_proteins.tolist(),
            "line": {"level": line.level, "slope": line.slope, "middle": line.middle},
            "slope_error": line.slope_error if np.isfinite(line.slope_error) else None,
            "extrapolated": beyond,
            "demanded": target,
            "demanded_reached_at": line.reaches(target) if target is not None else None,
        }
    return described


def table(points: list[tuple[float, dict[str, Any]]], described: dict[str, dict[str, Any]], over: str) -> str:
    """Markdown: a row per figure, a column per x, the slope per doubling, and where it leads."""
    x = [value for value, _ in points]
    heads = [f"mean over proteins, at {over} of", *(f"{value:g}" for value in x), "per doubling"]
    heads += [f"drawn out to {2 * max(x):g}", f"to {REACH * max(x):g}", "demanded", "reached at"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, found in described.items():
        gain, error = found["line"]["slope"] * np.log(2), found["slope_error"]
        cells = [FIGURES[key], *(f"{value:.2f}" for value in found["mean"])]
        cells.append(f"{gain:+.3f}" + (f" ± {error * np.log(2):.3f}" if error is not None else ""))
        for value, spread in found["extrapolated"].values():
            cells.append(f"{value:.2f}" + (f" ± {spread:.2f}" if spread is not None else ""))
        cells.append("-" if found["demanded"] is None else f"{found['demanded']:g}")
        cells.append(_reached(found, x))
        lines.append(f"| {' | '.join(cells)} |")
    counted = len(next(iter(described.values()))["proteins"])
    caveat = (
        f"Means over {counted} proteins. The line is fitted to {len(points)} points against the logarithm of {over}. "
        "It summarises them and is no law; nothing says that it goes on, least of all for figures that have a ceiling."
    )
    return "\n".join([*lines, "", caveat + ("" if len(points) > 2 else " Two points leave no room for an error.")])


def _reached(found: dict[str, Any], x: list[float]) -> str:
    if found["demanded"] is None:
        return "-"
    if found["mean"][-1] >= found["demanded"]:
        return "reached"
    place = found["demanded_reached_at"]
    if place is None or found["line"]["slope"] <= 0:
        return "never, by this line"
    return f"{place:.3g}" if place < 1000 * max(x) else f"beyond {1000 * max(x):.0g}"


def picture(path: Path, points: list[tuple[float, dict[str, Any]]], described: dict[str, Any], over: str) -> None:
    """One panel per figure: proteins thin, their mean thick, the line dashed to ten times the largest x."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x = np.array([x for x, _ in points])
    columns = min(3, len(described))
    rows = -(-len(described) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in list(panels)[len(described) :]:
        axes.set_axis_off()
    for axes, (key, found) in zip(figure.axes, described.items(), strict=False):
        for name, values in found["proteins"].items():
            axes.plot(x, values, marker=".", linewidth=0.8, alpha=0.6, label=name)
        axes.plot(x, found["mean"], marker="o", linewidth=2, color="black", label="mean")
        line = fit(x, np.array(found["mean"]))
        ahead = np.geomspace(x.min(), REACH * x.max(), 100)
        value, error = line.at(ahead)
        axes.plot(ahead, value, linestyle="--", color="black", linewidth=1)
        if np.isfinite(error).all():
            axes.fill_between(ahead, value - 2 * error, value + 2 * error, color="black", alpha=0.1, linewidth=0)
        if found["demanded"] is not None:
            axes.axhline(found["demanded"], color="#D55E00", linewidth=1, linestyle=":")
        axes.set(title=FIGURES[key], xlabel=over, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.suptitle(
        "dashed: line in the logarithm, band ± 2 standard errors; beyond the points it is a guess", fontsize=9
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def read_point(text: str) -> tuple[float, dict[str, Any]]:
    """``X=FILE``."""
    x, _, name = text.partition("=")
    path = Path(name)
    try:
        value = float(x)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not X=FILE, such as 2.4=fidelity.json") from error
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {name!r}")
    content = json.loads(path.read_text())
    if not content.get("proteins"):
        raise argparse.ArgumentTypeError(f"{name} is no file of fidelity.py: it has no proteins")
    return value, content


def main() -> None:
    """Fit, print Markdown, write JSON and PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", type=read_point, metavar="X=FILE", help="x, and a file of fidelity.py")
    parser.add_argument("--over", default="x", help="what x is, such as 'ns of training MD'")
    parser.add_argument("--output", type=Path, required=True, help="path without ending; .json and .png are added")
    arguments = parser.parse_args()
    points = sorted(arguments.points, key=lambda point: point[0])
    strides = {content["settings"]["stride"] for _, content in points}
    if len(strides) > 1:
        parser.error(f"the files have different strides, {sorted(strides)} ps: give files of one stride")
    described = describe(points)
    if not described:
        parser.error("there is no protein that all files have")
    content = {"over": arguments.over, "x": [x for x, _ in points], "stride": strides.pop(), "figures": described}
    write_json(arguments.output.with_suffix(".json"), content)
    picture(arguments.output.with_suffix(".png"), points, described, arguments.over)
    print(table(points, described, arguments.over))


if __name__ == "__main__":
    main()
