"""Tables and sentences of what ``benchmarks/fidelity.py`` measured, in Markdown.

`results` is what it writes under ``"proteins"``: by protein, the figures of model, reference and yardsticks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
    """Markdown of the slopes, Å/ns."""
    head = "| protein | slope of RMSD to start (Å/ns) | slope of Rg (Å/ns) | independent values |"
    rows = [head, "|---|---|---|---|"]
    for name, result in results.items():
        found = result.get("slopes")
        if found:
            cells = [f"{10 * found[k]['value']:+.4f} ± {10 * found[k]['error']:.4f}" for k in ("rmsd", "rg")]
            independent = ", ".join(f"{found[k]['independent']:.0f}" for k in ("rmsd", "rg"))
            rows.append(f"| {name} | {cells[0]} | {cells[1]} | {independent} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def fidelity_table(results: dict[str, dict[str, Any]], best: str) -> str:
    """Markdown of model, second replica, elastic network and frozen structure beside MD; lengths in Å.

    Parameters
    ----------
    results : dict of str to dict
        By protein.
    best : str
        The elastic network to show.

    Returns
    -------
    str
    """
    lines = [
        "| protein | | valid % | RMSF r | RMSF amplitude | RMSD against lag | RMSD to start (Å) | Rg (Å) |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def row(protein: str, label: str, f: dict[str, Any]) -> str:
        def show(key: str, scale: float = 1.0, digits: int = 2) -> str:
            if key not in f or not np.isfinite(f[key]):
                return "-"
            spread = scale * np.std([seed[key] for seed in f.get("seeds", [])]) if len(f.get("seeds", [])) > 1 else 0.0
            return f"{scale * f[key]:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread > 0 else "")

        lag = (
            f"{show('lag_ratio')} ({min(f['lag_ratios']):.2f} to {max(f['lag_ratios']):.2f})"
            if f.get("lag_ratios")
            else "-"
        )
        cells = [show("valid", 100, 1), show("rmsf_correlation"), show("rmsf_amplitude"), lag]
        return f"| {' | '.join([protein, label, *cells, show('rmsd_to_start', 10), show('rg', 10)])} |"

    for name, result in results.items():
        reference = result["reference"]
        lines.append(row(f"{name} ({result['residues']})", "**STAR-MD**", result["model"]))
        if result["second"] is not None:
            lines.append(row("", "second MD replica", result["second"]))
        lines.append(row("", best, {"rmsf_correlation": result["networks"][best]}))
        lines.append(
            row(
                "",
                "frozen structure",
                {"rmsf_amplitude": 0.0, "lag_ratios": [0.0], "lag_ratio": 0.0} | result["frozen"],
            )
        )
        (away, away_sd), (size, size_sd) = reference["rmsd_to_start"], reference["rg"]
        lines.append(
            f"| | reference MD | {100 * reference['valid']:.1f} | 1 | 1 | 1 | {10 * away:.2f} ± {10 * away_sd:.2f} "
            f"| {10 * size:.2f} ± {10 * size_sd:.2f} |"
        )
    return "\n".join(lines)


def spans(results: dict[str, dict[str, Any]], stride: float) -> str:
    """One sentence: how much of each protein was compared."""
    listed = ", ".join(f"{name} {result['frames']}" for name, result in results.items())
    return f"Frames of {stride:g} ps compared: {listed}. ± is the SD over seeds, for MD's RMSD and Rg that over frames."


def means(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures over all proteins: means, the better elastic network, validity of the worst rollout."""
    labels = next(iter(results.values()))["networks"]
    networks = {label: float(np.mean([r["networks"][label] for r in results.values()])) for label in labels}
    seconds = [r["second"]["rmsf_correlation"] for r in results.values() if r["second"] is not None]
    return {
        "model_rmsf_correlation": float(np.mean([r["model"]["rmsf_correlation"] for r in results.values()])),
        # a mean over fewer proteins than the model's is not to be compared with it
        "second_rmsf_correlation": float(np.mean(seconds)) if len(seconds) == len(results) else None,
        "network_rmsf_correlation": networks,
        "best_network": max(networks, key=lambda label: networks[label]),
        "worst_valid": min(s["valid"] for r in results.values() for s in r["model"]["seeds"]),
    }


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
                f"{scale * figures[key]:.{digits}f}" if np.isfinite(figures.get(key, np.nan)) else "-"
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
