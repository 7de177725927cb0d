"""Tables and sentences of what ``benchmarks/fidelity.py`` measured, in Markdown.

`results` is what it writes under ``"proteins"``: by protein, the figures of model, reference and yardsticks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from openmm_starmd.analysis.flexibility import FEWEST

LAG = 100.0
"""Lag of the displacement that tables show, ps."""

CHI1_ALIKE = 0.25
"""Two populations of χ1's wells are alike when less than this share of one must be moved to make the other."""

SIDE_CHAIN_COLUMNS = (
    ("ramachandran", "Ramachandran outliers %", 100, 1),
    ("rotamer", "rotamer outliers %", 100, 1),
    ("within_limits", "frames within both limits %", 100, 0),
    ("chi1_alike", f"χ1 populations alike (< {CHI1_ALIKE:g}) %", 100, 0),
    ("chi1_distance", "χ1 population distance", 1, 2),
    ("chi1_same", "same most populated χ1 well %", 100, 0),
    ("chi1_error", "χ1 error in that well (°)", 1, 0),
    ("chi1_jumps", "χ1 changes of well per frame %", 100, 1),
)
"""Key, heading, factor and digits of each figure of :func:`side_chain_table`."""


def slope_table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown of the slopes, Å/ns, and what they are of."""
    head = "| protein | slope of RMSD to start (Å/ns) | slope of Rg (Å/ns) | independent values |"
    rows = [head, "|---|---|---|---|"]
    made = set()
    for name, result in results.items():
        found = result.get("slopes")
        if found:
            cells = [
                f"{10 * found[k]['value']:+.4f} ± "
                + (f"{10 * found[k]['error']:.4f}" if known(found[k]["error"]) else "too slow to tell")
                if known(found[k]["value"])
                else "-"
                for k in ("rmsd", "rg")
            ]
            independent = ", ".join(f"{found[k]['independent']:.0f}" for k in ("rmsd", "rg"))
            rows.append(f"| {name} | {cells[0]} | {cells[1]} | {independent} |")
            made.add((found["frames"], len(found["rmsd"]["seeds"])))
    if not made:
        return ""
    said = "; ".join(f"second half of {frames} frames, {seeds} seed(s)" for frames, seeds in sorted(made))
    return "\n".join([*rows, "", f"Lines fitted to the {said}."])


def known(value: float | None) -> bool:
    """Whether a figure is there: neither None nor nan."""
    return value is not None and bool(np.isfinite(value))


def best_network(values: dict[str, float | None]) -> str | None:
    """The elastic network with the highest of these correlations; None where none is known."""
    there = {label: value for label, value in values.items() if known(value)}
    return max(there, key=lambda label: there[label]) if there else None  # type: ignore[arg-type,return-value]


def at_lag(result: dict[str, Any], kind: str, lag: float = LAG) -> dict[str, Any]:
    """What stands under ``displacements`` of "model", "second" or "networks" of a protein at a lag in ps."""
    if lag not in result["lag_ps"] or result[kind] is None:
        return {}
    values = result["network_displacements" if kind == "networks" else kind]
    return (values if kind == "networks" else values["displacements"])[result["lag_ps"].index(lag)]


def fidelity_table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown of model, second replica, elastic networks and frozen structure beside MD, by protein; lengths in Å.

    Parameters
    ----------
    results : dict of str to dict
        By protein.

    Returns
    -------
    str
    """
    lines = [
        f"| protein | | valid % | RMSF r | RMSF amplitude | displacement over {LAG:g} ps, r | its amplitude "
        "| RMSD against lag | RMSD to start (Å) | Rg (Å) |",
        "|---" * 10 + "|",
    ]
    for name, result in results.items():
        reference = result["reference"]
        lines.append(_row(f"{name} ({result['residues']})", "**STAR-MD**", result["model"], at_lag(result, "model")))
        if result["second"] is not None:
            lines.append(_row("", "second MD replica", result["second"], at_lag(result, "second")))
        lines += _network_rows(result)
        enough = known(result["networks"][result["floor"]])
        still = {"rmsf_amplitude": 0.0 if enough else None, "lag_ratios": [0.0], "lag_ratio": 0.0} | result["frozen"]
        lines.append(_row("", "frozen structure", still, {"amplitude": 0.0}))
        (away, away_sd), (size, size_sd) = reference["rmsd_to_start"], reference["rg"]
        lines.append(
            f"| | reference MD | {100 * reference['valid']:.1f} | {'1 | 1' if enough else '- | -'} | 1 | 1 | 1 "
            f"| {10 * away:.2f} ± {10 * away_sd:.2f} | {10 * size:.2f} ± {10 * size_sd:.2f} |"
        )
    return "\n".join(lines)


def _row(protein: str, label: str, f: dict[str, Any], moved: dict[str, Any]) -> str:
    """One line of :func:`fidelity_table`: `f` holds the figures, `moved` those of the displacement."""
    seeds = f.get("seeds", [])

    def show(key: str, scale: float = 1.0, digits: int = 2) -> str:
        if not known(f.get(key)):
            return "-"
        each = [seed[key] for seed in seeds if known(seed[key])]
        # a pooled figure is one figure, whatever single runs have
        spread = scale * np.std(each) if len(each) > 1 and not key.startswith("rmsf") else 0.0
        return f"{scale * f[key]:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread > 0 else "")

    def both(value: float | None, each: list[float]) -> str:
        if not known(value):
            return "-"
        return f"{value:.2f}" + (f" ({', '.join(f'{x:.2f}' for x in each)})" if len(each) > 1 else "")

    ratios = f.get("lag_ratios") or []
    lag = show("lag_ratio")
    if len(ratios) > 1 and known(f["lag_ratio"]):
        lag += f" ({min(ratios):.2f} to {max(ratios):.2f})"
    amplitude = f"{moved['amplitude']:.2f}" if known(moved.get("amplitude")) else "-"
    cells = [
        protein,
        label,
        show("valid", 100, 1),
        both(f.get("rmsf_correlation"), f.get("rmsf_correlations", [])),
        show("rmsf_amplitude"),
        both(moved.get("correlation"), moved.get("correlations", [])),
        amplitude,
        lag,
        show("rmsd_to_start", 10),
        show("rg", 10),
    ]
    return f"| {' | '.join(cells)} |"


def _network_rows(result: dict[str, Any]) -> list[str]:
    """The network that is the same for all proteins, then the best for this one, by RMSF and by displacement."""
    values, moved = result["networks"], at_lag(result, "networks")
    floor = result["floor"]
    rows = [
        _row("", f"elastic network {floor}", {"rmsf_correlation": values[floor]}, {"correlation": moved.get(floor)})
    ]
    best, best_moved = best_network(values), best_network(moved)
    if {best, best_moved} - {None, floor}:
        label = ", ".join(dict.fromkeys(x for x in (best, best_moved) if x is not None))
        rows.append(
            _row(
                "",
                f"best network, with hindsight: {label}",
                {"rmsf_correlation": values[best] if best else None},
                {"correlation": moved[best_moved] if best_moved else None},
            )
        )
    return rows


def displacement_table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown of the displacement by lag: r and amplitude of the model, the ceiling and the floor, by protein."""
    lags = sorted({lag for result in results.values() for lag in result["lag_ps"]})
    lines = ["| protein | | " + " | ".join(f"{lag:g} ps" for lag in lags) + " |", "|---" * (len(lags) + 2) + "|"]
    for name, result in results.items():
        first = f"{name} ({result['residues']})"
        rows = {"model": "**STAR-MD**", "second": "second MD replica", "networks": f"elastic network {result['floor']}"}
        for kind, label in rows.items():
            if result[kind] is None:
                continue
            cells = []
            for lag in lags:
                found = at_lag(result, kind, lag)
                r = found.get(result["floor"] if kind == "networks" else "correlation")
                amplitude = found.get("amplitude")
                size = f" / {amplitude:.2f}" if known(amplitude) else ""
                cells.append(f"{r:.2f}{size}" if known(r) else "-")
            lines.append(f"| {first} | {label} | {' | '.join(cells)} |")
            first = ""
    return "\n".join(lines)


def spans(results: dict[str, dict[str, Any]], stride: float) -> str:
    """Sentences: how much of each protein was compared, and how the figures are made."""
    listed = ", ".join(f"{name} {result['frames']}" for name, result in results.items())
    runs = sorted({len(result["model"]["seeds"]) for result in results.values()})
    both = all(result["references"] > 1 for result in results.values())
    beside = "the mean with both MD replicas (in brackets with each)" if both else "that with the reference replica"
    of = "both replicas pooled" if both else "the reference replica"
    return (
        f"Frames of {stride:g} ps compared: {listed}. RMSF r is {beside} of the profile pooled over "
        f"{' or '.join(map(str, runs))} seeds (root of the mean of squares, each seed about its own mean structure), "
        f"the amplitude is beside that of {of}; neither is given of fewer than {FEWEST} frames. A second replica's r "
        "is with the first: the ceiling. Displacement: root mean square over all windows of that length, residue by "
        "residue, each pair of frames superposed. ± is the SD over seeds, for MD's RMSD and Rg that over frames."
    )


def means(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures over all proteins, which no table shows alone.

    Returns
    -------
    dict
        ``rmsf`` and ``displacement`` (at :data:`LAG`), each with ``proteins`` (of how many), ``model``, ``second``
        (None unless each of them has one), ``floor`` and ``best`` (mean correlations; the best network of each
        protein), ``worst`` and ``below_floor`` (names); ``floor`` (its label); ``worst_valid`` of a single rollout.
    """
    valid = [s["valid"] for r in results.values() for s in r["model"]["seeds"] if known(s["valid"])]
    return {
        "rmsf": _over(results, "rmsf"),
        "displacement": _over(results, "displacement"),
        "floor": " or ".join(sorted({r["floor"] for r in results.values()})),
        "worst_valid": min(valid) if valid else None,
    }


def correlation_of(result: dict[str, Any], key: str, kind: str) -> Any:
    """Correlation of "model" or "second" with MD, or those of all "networks"; `key` is "rmsf" or "displacement"."""
    if kind == "networks":
        return result[kind] if key == "rmsf" else at_lag(result, kind)
    if result[kind] is None:
        return None
    return result[kind]["rmsf_correlation"] if key == "rmsf" else at_lag(result, kind).get("correlation")


def _over(results: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """One entry of :func:`means`."""
    own = {name: correlation_of(r, key, "model") for name, r in results.items()}
    own = {name: value for name, value in own.items() if known(value)}
    if not own:
        return {"proteins": 0}
    networks = {name: correlation_of(results[name], key, "networks") for name in own}
    floor = {name: networks[name][results[name]["floor"]] for name in own}
    seconds = [value for name in own if known(value := correlation_of(results[name], key, "second"))]
    return {
        "proteins": len(own),
        "model": float(np.mean(list(own.values()))),
        # a mean over fewer proteins than the model's is not to be compared with it
        "second": float(np.mean(seconds)) if len(seconds) == len(own) else None,
        "floor": float(np.mean(list(floor.values()))),
        "best": float(np.mean([max(x for x in values.values() if known(x)) for values in networks.values()])),
        "worst": min(own, key=lambda name: own[name]),
        "below_floor": [name for name in own if not own[name] > floor[name]],
    }


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Sentences over all proteins, with the worst of them named."""
    found = means(results)
    parts = []
    for key, what in (("rmsf", "RMSF r"), ("displacement", f"r of the displacement over {LAG:g} ps")):
        f = found[key]
        if not f["proteins"]:
            parts.append(f"{what}: no protein has enough MD.")
            continue
        worst = results[f["worst"]]
        own, ceiling, networks = (correlation_of(worst, key, kind) for kind in ("model", "second", "networks"))
        below = f", no higher than the elastic network's for {', '.join(f['below_floor'])}" if f["below_floor"] else ""
        top, replica = (format(x, ".2f") if known(x) else "-" for x in (ceiling, f["second"]))
        parts.append(
            f"{what}, worst protein: {f['worst']}, {own:.2f} (second MD replica {top}, elastic network "
            f"{networks[worst['floor']]:.2f}){below}. Mean over {f['proteins']} of {len(results)} proteins: STAR-MD "
            f"{f['model']:.2f}, second MD replica {replica}, elastic network {found['floor']} {f['floor']:.2f}, each "
            f"protein's best network (hindsight) {f['best']:.2f}."
        )
    if known(found["worst_valid"]):
        parts.append(f"Worst single rollout: {100 * found['worst_valid']:.1f} % valid.")
    return " ".join(parts)


def side_chain_table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown of the proteins that have side chains measured; empty if none has."""
    measured = {name: r["side_chains"] for name, r in results.items() if r.get("side_chains")}
    if not measured:
        return ""
    lines = [
        "| protein | | " + " | ".join(c[1] for c in SIDE_CHAIN_COLUMNS) + " |",
        "|---" * (len(SIDE_CHAIN_COLUMNS) + 2) + "|",
    ]
    rows = {"model": "**STAR-MD**", "second": "second MD replica", "frozen": "frozen structure"}
    for name, result in measured.items():
        first = f"{name} ({result['residues']} χ1)"
        for kind, label in (*rows.items(), ("reference", "reference MD")):
            figures = result[kind]
            if figures is None:
                continue
            cells = [
                f"{scale * figures[key]:.{digits}f}" if known(figures.get(key)) else "-"
                for key, _, scale, digits in SIDE_CHAIN_COLUMNS
            ]
            lines.append("| " + " | ".join([first, label, *cells]) + " |")
            first = ""
    return "\n".join(lines)


def criteria_table(lines: list[dict[str, Any]]) -> str:
    """Markdown of what was demanded, with a column of verdicts; `lines` is what stands under ``"criteria"``."""
    verdicts = {True: "pass", False: "**FAIL**", None: "-"}
    rows = [f"| {x['line']} | {x['measured']} | {x['demanded']} | {verdicts[x['passed']]} |" for x in lines]
    return "\n".join(["| line | measured | demanded | |", "|---|---|---|---|", *rows])
