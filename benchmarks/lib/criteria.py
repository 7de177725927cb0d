"""What held-out fidelity must show, line by line, with a verdict each."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmm_starmd.analysis.stereochemistry import ROTAMER_LIMIT
from openmm_starmd.release.figures import CHI1_ALIKE, LAG, correlation_of, known

VALID_MEAN, VALID_WORST = 0.99, 0.97
OF_SECOND = 0.9
AMPLITUDE = (0.7, 1.3)
LAG_BAND = 0.3
LONGEST_LAG = 200.0  # ps
BLOCK_SDS = 3.0

Line = dict[str, Any]


def line(name: str, measured: str, demanded: str, passed: bool | None) -> Line:
    """One line of the verdict; `passed` is None for what could not be measured."""
    return {"line": name, "measured": measured, "demanded": demanded, "passed": passed}


def judge(results: dict[str, dict[str, Any]], frames: int) -> list[Line]:
    """Verdicts on the results of ``fidelity.measure`` of several proteins at one stride.

    Parameters
    ----------
    results : dict of str to dict
        By protein.
    frames : int
        Over which validity was counted.

    Returns
    -------
    list of dict
        ``line``, ``measured``, ``demanded``, ``passed``.
    """
    models = {name: result["model"] for name, result in results.items()}
    valid = {name: model["valid"] for name, model in models.items()}
    mean, worst = float(np.mean(list(valid.values()))), min(valid, key=lambda name: valid[name])
    lines = [
        line(
            f"valid over {frames} frames, mean",
            f"{100 * mean:.1f} %",
            f">= {100 * VALID_MEAN:g} %",
            mean >= VALID_MEAN,
        ),
        line(
            "valid, worst protein",
            f"{100 * valid[worst]:.1f} % ({worst})",
            f">= {100 * VALID_WORST:g} %",
            valid[worst] >= VALID_WORST,
        ),
    ]
    for key, what in (("rmsf", "RMSF r"), ("displacement", f"r of the displacement over {LAG:g} ps")):
        lines += _shape(results, key, what)
    lines += [_amplitude(results), _lags(results), _away(results)]
    lines += [_slope(results, key, label) for key, label in (("rmsd", "RMSD to start"), ("rg", "Rg"))]
    return [*lines, *_side_chains(results)]


def _shape(results: dict[str, dict[str, Any]], key: str, what: str) -> list[Line]:
    """A profile's r beside the ceiling and beside the elastic network that all proteins share: mean, every protein."""
    own, ceiling, floor = {}, {}, {}
    for name, result in results.items():
        r, second, networks = (correlation_of(result, key, kind) for kind in ("model", "second", "networks"))
        network = networks.get(result["floor"])
        # where there is too little MD nothing is lost by the model; where the model has nan, all is
        if known(network):
            own[name], ceiling[name], floor[name] = r if known(r) else np.nan, second, network
    if not own:
        return [line(f"{what}, every protein", "too little MD", "above the elastic network's", None)]
    mean = float(np.mean(list(own.values())))
    of = f" ({len(own)} of {len(results)} proteins)" if len(own) < len(results) else ""
    lines = []
    if all(known(x) for x in ceiling.values()):
        top = float(np.mean(list(ceiling.values())))
        under = [name for name in own if not own[name] >= OF_SECOND * ceiling[name]]
        worst = min(own, key=lambda name: np.nan_to_num(own[name] - ceiling[name], nan=-np.inf))
        shown = f"{own[worst]:.2f} of {ceiling[worst]:.2f} ({worst})"
        demanded = f">= {OF_SECOND:g} of the second replica's"
        lines.append(line(f"{what}, mean{of}", f"{mean:.2f} of {top:.2f}", demanded, mean >= OF_SECOND * top))
        lines.append(line(f"{what}, every protein{of}", f"farthest: {shown}{_named(under)}", demanded, not under))
    else:
        lines.append(line(f"{what}, mean{of}", f"{mean:.2f}, not all have a second replica", "-", None))
    bottom = float(np.mean(list(floor.values())))
    label = next(iter(results.values()))["floor"]
    under = [name for name in own if not own[name] > floor[name]]
    worst = min(own, key=lambda name: np.nan_to_num(own[name] - floor[name], nan=-np.inf))
    shown = f"{own[worst]:.2f} against {floor[worst]:.2f} ({worst})"
    demanded = f"above that of the elastic network {label}"
    lines.append(
        line(f"{what} beside a network's, mean{of}", f"{mean:.2f} against {bottom:.2f}", demanded, mean > bottom)
    )
    shown = f"farthest: {shown}{_named(under)}"
    lines.append(line(f"{what} beside a network's, every protein{of}", shown, demanded, not under))
    return lines


def _amplitude(results: dict[str, dict[str, Any]]) -> Line:
    low, high = AMPLITUDE
    name, demanded = "RMSF amplitude, every protein", f"{low:g} to {high:g} of MD's"
    values = {
        protein: result["model"]["rmsf_amplitude"]
        for protein, result in results.items()
        if known(result["networks"][result["floor"]])
    }
    if not values:
        return line(name, "too little MD", demanded, None)
    outside = [protein for protein, value in values.items() if not (known(value) and low <= value <= high)]
    there = [value for value in values.values() if known(value)]
    shown = f"{min(there):.2f} to {max(there):.2f}" if there else "not finite"
    if len(values) < len(results):
        shown += f" ({len(values)} of {len(results)} proteins)"
    return line(name, shown + _named(outside), demanded, not outside)


def _lags(results: dict[str, dict[str, Any]]) -> Line:
    ratios = {
        f"{name} at {lag:g} ps": ratio
        for name, result in results.items()
        for lag, ratio in zip(result["lag_ps"], result["model"]["lag_ratios"], strict=True)
    }
    demanded = f"within {100 * LAG_BAND:g} % of MD's at each lag"
    if not ratios:
        return line("RMSD against lag, every protein", "no lag fits the MD", demanded, None)
    outside = [where for where, ratio in ratios.items() if not abs(ratio - 1) <= LAG_BAND]
    lags = sorted({lag for result in results.values() for lag in result["lag_ps"]})
    shown = f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f} at {', '.join(f'{lag:g}' for lag in lags)} ps"
    # MD too short for the longest lag shows nothing of it
    short = [name for name, result in results.items() if LONGEST_LAG not in result["lag_ps"]]
    if short:
        shown += f"; not to {LONGEST_LAG:g} ps: {', '.join(short)}"
    passed = None if short and not outside else not outside
    return line("RMSD against lag, every protein", shown + _named(outside), demanded, passed)


def _away(results: dict[str, dict[str, Any]]) -> Line:
    away = {
        name: (result["model"]["rmsd_to_start"] - result["reference"]["rmsd_to_start"][0])
        / result["reference"]["rmsd_block_sd"]
        for name, result in results.items()
    }
    outside = [name for name, value in away.items() if not abs(value) <= BLOCK_SDS]
    shown = f"{min(away.values()):+.1f} to {max(away.values()):+.1f} block SD"
    return line("RMSD to start, every protein", shown + _named(outside), f"MD's mean ± {BLOCK_SDS:g} SD", not outside)


def _slope(results: dict[str, dict[str, Any]], key: str, label: str) -> Line:
    name = f"slope of {label} over the second half"
    slopes = {protein: result["slopes"][key] for protein, result in results.items() if result.get("slopes")}
    if len(slopes) < len(results):
        return line(name, "not measured (--slope)", "zero within 2 SE", None)
    frames = next(iter(results.values()))["slopes"]["frames"]
    sizes = {protein: abs(s["value"]) / s["error"] if s["error"] > 0 else np.nan for protein, s in slopes.items()}
    outside = [protein for protein, size in sizes.items() if not size <= 2]
    known = [size for size in sizes.values() if np.isfinite(size)]
    shown = f"largest {max(known):.1f} SE" if known else "too slow to tell"
    return line(f"{name} of {frames} frames", shown + _named(outside), "zero within 2 SE, every protein", not outside)


def _side_chains(results: dict[str, dict[str, Any]]) -> list[Line]:
    """Whether side chains are good enough to be drawn by default."""
    found = [result["side_chains"] for result in results.values() if result.get("side_chains")]
    if not found:
        return []

    def mean(kind: str, key: str) -> float:
        values = [side[kind][key] for side in found if side[kind] is not None]
        return float(np.mean(values)) if values else float("nan")

    drawn, limit = mean("model", "rotamer"), max(ROTAMER_LIMIT, mean("reference", "rotamer"))
    alike, ceiling = mean("model", "chi1_alike"), mean("second", "chi1_alike")
    return [
        line(
            "side chains: rotamer outliers",
            f"{100 * drawn:.1f} %, MD {100 * mean('reference', 'rotamer'):.1f} %",
            f"<= {100 * limit:.2f} %",
            drawn <= limit,
        ),
        line(
            f"side chains: χ1 populations alike (< {CHI1_ALIKE:g})",
            f"{100 * alike:.0f} % of residues, second replica {100 * ceiling:.0f} %, frozen structure "
            f"{100 * mean('frozen', 'chi1_alike'):.0f} %",
            f">= {OF_SECOND:g} of the second replica's",
            alike >= OF_SECOND * ceiling if np.isfinite(ceiling) else None,
        ),
    ]


def _named(outside: list[str]) -> str:
    return f"; outside: {', '.join(outside)}" if outside else ""
