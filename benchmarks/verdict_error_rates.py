"""How often a verdict is wrong: MD frames that must pass, spoiled ones that must not, and whether the culprit is named.

    python -m benchmarks.verdict_error_rates    # 50 MD frames and 50 spoiled ones of training proteins

Frames are judged by 1 ps of MD after at most 100 iterations of minimisation; drift is compared with the reference MD's
own RMSD at that lag. A frame that inspection finds broken is not simulated. The limits were set by other frames (first,
middle and last ones of training proteins, which are left out here). Every frame is written to the JSON file as it is
done, and a second call goes on.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.corruption import KINDS, SEVERITIES, Corruption
from benchmarks.lib.paths import RESULTS
from benchmarks.lib.published_results import markdown
from benchmarks.lib.reference_md import Reference
from benchmarks.lib.results_page import write_json
from openmm_starmd import __version__
from openmm_starmd.verdicts.verdict import frame_at, judge

# name, replica; all trained on, none held out
PROTEINS = (("villin", 2), ("2wqg_A", 1), ("1gjs_A", 1), ("EEHEE_rd3_1587_A", 1), ("HHH_rd2_0181_A", 1))
DURATION, ITERATIONS = 1.0, 100


def cases(md: int, spoiled: int, lengths: dict[str, int], seed: int) -> list[dict[str, Any]]:
    """What is judged: MD frames and spoiled ones, drawn at random, corruptions in turn."""
    rng = np.random.default_rng(seed)
    combinations = [(kind, severity) for severity in SEVERITIES for kind in KINDS]
    made = []
    # in turn, so that a run cut short has both
    turns = sorted([(i / md, False, i) for i in range(md)] + [(i / spoiled, True, i) for i in range(spoiled)])
    for number, (_, is_spoiled, i) in enumerate(turns):
        name, replica = PROTEINS[i % len(PROTEINS)]
        # the first, middle and last frame took part in fitting the limits
        middle = (lengths[name] - 1) // 2
        frame = int(rng.choice([k for k in range(1, lengths[name] - 1) if k != middle]))
        kind, severity = combinations[i % len(combinations)] if is_spoiled else ("", "")
        case = {"protein": name, "replica": replica, "frame": frame, "kind": kind, "severity": severity}
        made.append(case | {"seed": number})
    return made


def judge_case(case: dict[str, Any], reference: Reference) -> dict[str, Any]:
    """Spoil, judge, and note what was found."""
    protein, positions, truth = reference.model.protein, reference.frames[case["frame"]], ()
    if case["kind"]:
        spoil = Corruption(protein.frame_topology("heavy"))
        rng = np.random.default_rng([20, case["seed"]])
        positions, truth = KINDS[case["kind"]](spoil, positions, case["severity"], rng)
    verdict = judge(
        reference.model,
        frame_at(reference.model, positions),
        DURATION,
        minimize=ITERATIONS,
        seed=case["seed"],
        spread=reference.spread,
        stop_if_broken=True,
    )
    labels = [protein.residue_label(i) for i in truth]
    return case | {
        "status": verdict.status,
        "truth": labels,
        "named": list(verdict.residues),
        "first_named": verdict.residues[0] if verdict.residues else None,
        "findings": [[finding.kind, finding.grave] for finding in verdict.findings],
        "energy_above_start": (verdict.energy_minimized - verdict.energy_start) / verdict.count,
        "moved": verdict.moved,
        "force": verdict.force,
        "drift_ratio": verdict.drift / verdict.spread,
        "heat": verdict.temperature / verdict.temperature_set,
        "contacts": verdict.contacts,
        "seconds": verdict.seconds,
    }


def summarise(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates of MD frames, and of spoiled ones by kind and severity."""
    groups = [("MD", "", [c for c in done if not c["kind"]])]
    groups += [(k, s, [c for c in done if (c["kind"], c["severity"]) == (k, s)]) for k in KINDS for s in SEVERITIES]
    groups += [("all spoiled", s, [c for c in done if c["severity"] == s]) for s in SEVERITIES]
    groups.append(("all spoiled", "", [c for c in done if c["kind"]]))
    rows = []
    for kind, severity, members in groups:
        failing = [c for c in members if c["status"] != "pass" and c["kind"]]
        statuses = Counter(c["status"] for c in members)
        rows.append(
            {
                "kind": kind,
                "severity": severity,
                "frames": len(members),
                **{status: statuses[status] for status in ("pass", "strained", "broken")},
                "culprit_among_named": sum(bool(set(c["truth"]) & set(c["named"])) for c in failing),
                "culprit_named_first": sum(c["first_named"] in c["truth"] for c in failing),
                "failing": len(failing),
            }
        )
    md = rows[0]
    spoiled = rows[-1]
    return {
        "rows": rows,
        "false_fail": 1 - md["pass"] / max(1, md["frames"]),
        "false_broken": md["broken"] / max(1, md["frames"]),
        "false_pass": spoiled["pass"] / max(1, spoiled["frames"]),
    }


def table(summary: dict[str, Any]) -> str:
    """The rates as a Markdown table."""
    headings = ["frames", "severity", "n", "pass", "strained", "broken", "culprit named", "named first"]
    lines = [
        [
            row["kind"],
            row["severity"],
            *(str(row[name]) for name in ("frames", "pass", "strained", "broken")),
            *(f"{row[name]}/{row['failing']}" for name in ("culprit_among_named", "culprit_named_first")),
        ]
        for row in summary["rows"]
    ]
    return markdown(headings, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--md", type=int, default=50, help="MD frames")
    parser.add_argument("--spoiled", type=int, default=50, help="spoiled frames")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS / "verdict.json")
    options = parser.parse_args()
    references = {name: Reference(name, replica) for name, replica in PROTEINS}
    wanted = cases(options.md, options.spoiled, {n: len(r.frames) for n, r in references.items()}, options.seed)
    settings = {"duration_ps": DURATION, "minimize": ITERATIONS, "version": __version__, "wanted": wanted}
    done: list[dict[str, Any]] = []
    if options.output.exists():
        before = json.loads(options.output.read_text())
        if before["settings"] == settings:
            done = before["cases"]
    for case in wanted[len(done) :]:
        done.append(judge_case(case, references[case["protein"]]))
        last = done[-1]
        print(len(done), last["protein"], last["kind"], last["severity"], last["status"], last["findings"], flush=True)
        write_json(options.output, {"settings": settings, "summary": summarise(done), "cases": done})
    summary = summarise(done)
    print(table(summary))
    print(
        f"false fails {100 * summary['false_fail']:.0f} % of MD frames ({100 * summary['false_broken']:.0f} % broken), "
        f"false passes {100 * summary['false_pass']:.0f} % of spoiled frames"
    )


if __name__ == "__main__":
    main()
