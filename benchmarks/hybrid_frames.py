"""Whether classical MD can go on from learned frames: energy, what minimisation moves, and a segment, beside MD frames.

    python -m benchmarks.hybrid_frames                                  # bundled weights, villin and 2op7_A (held out)
    python -m benchmarks.hybrid_frames --weights PATH --frames 50 --proteins villin

MD frames go the same way as learned ones: N, CA, C and torsions are read from them, all other atoms are placed anew and
minimised; 1 ps of MD is run from learned frames only. Every frame is written to the JSON file as it is done, and a
second call goes on. What is asked of a learned frame: energy per residue after minimisation no more than 3 standard
deviations of the MD frames' above their mean, the backbone moved by at most 0.5 Å, the segment intact, none refused.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.paths import RESULTS
from benchmarks.lib.published_results import markdown
from benchmarks.lib.reference_md import Reference
from benchmarks.lib.results_page import write_json
from openmm_starmd import StarMDSimulation, __version__
from openmm_starmd.model.weights import DEFAULT_WEIGHTS
from openmm_starmd.verdicts.judging import HeavyFrame
from openmm_starmd.verdicts.limits import LIMITS
from openmm_starmd.verdicts.verdict import frame_at, judge, present_frame

DURATION = 1.0
MOVED, DEVIATIONS = 0.05, 3.0


def learned_frames(reference: Reference, weights: str, frames: int, seed: int) -> list[HeavyFrame]:
    """Frames of a rollout from the start structure, at the weights' own stride."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simulation = StarMDSimulation(
            reference.pdb.topology, reference.pdb.positions, seed=seed, weights=weights, device="cpu"
        )
    drawn = []
    for _ in range(frames):
        simulation.step(1)
        drawn.append(present_frame(simulation))
    return drawn


def measure(reference: Reference, frame: HeavyFrame, duration: float, iterations: int, seed: int) -> dict[str, Any]:
    """Figures of one frame; lengths in nm."""
    verdict = judge(reference.model, frame, duration, minimize=iterations, seed=seed, spread=reference.spread)
    kinds = {finding.kind for finding in verdict.findings}
    broke = "refused" in kinds or verdict.duration < duration or not verdict.fold_held
    worse = verdict.ended is not None and verdict.ended.chirality > verdict.minimized.chirality
    return {
        "status": verdict.status,
        "findings": [[finding.kind, finding.grave] for finding in verdict.findings],
        "refused": "refused" in kinds,
        "intact": not broke and not worse,
        "energy_per_residue": verdict.energy_minimized / verdict.count,
        "energy_placed_per_residue": verdict.energy_drawn / verdict.count,
        "moved": verdict.moved,
        "force": verdict.force,
        "drift": verdict.drift,
        "contacts": verdict.contacts,
        "rmsd_start": verdict.rmsd_start,
        "overlap_left": None if verdict.minimized is None else verdict.minimized.overlap,
        "seconds": verdict.seconds,
    }


def compare(learned: list[dict[str, Any]], md: list[dict[str, Any]]) -> dict[str, Any]:
    """Learned frames against MD frames of the same protein, at least two of each."""
    energies = np.array([row["energy_per_residue"] for row in md])
    mean, deviation = float(energies.mean()), float(energies.std(ddof=1))
    scores = (np.array([row["energy_per_residue"] for row in learned]) - mean) / deviation
    moved = 10 * np.array([row["moved"] for row in learned])
    return {
        "frames": len(learned),
        "md_frames": len(md),
        "md_energy_per_residue": {"mean": mean, "sd": deviation},
        "learned_energy_per_residue": {
            "mean": float(np.nanmean([row["energy_per_residue"] for row in learned])),
            "largest_deviation_sd": float(np.nanmax(scores)),
        },
        "within_3_sd": float((scores <= DEVIATIONS).mean()),
        "moved_angstrom": {"mean": float(np.nanmean(moved)), "max": float(np.nanmax(moved))},
        "md_moved_angstrom": {
            "mean": 10 * float(np.mean([r["moved"] for r in md])),
            "max": 10 * max(r["moved"] for r in md),
        },
        "moved_at_most_0.5": float((moved <= 10 * MOVED).mean()),
        "intact": float(np.mean([row["intact"] for row in learned])),
        "refused": sum(row["refused"] for row in learned),
        "statuses": {s: sum(r["status"] == s for r in learned) for s in ("pass", "strained", "broken")},
        "md_statuses": {s: sum(r["status"] == s for r in md) for s in ("pass", "strained", "broken")},
    }


def table(results: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    headings = [
        "protein",
        "frames",
        "energy within 3 SD",
        "worst (SD)",
        "moved, max (Å)",
        "moved <= 0.5 Å",
        "1 ps intact",
    ]
    headings += ["refused", "pass / strained / broken"]
    lines = []
    for name, found in results.items():
        lines.append(
            [
                name,
                f"{found['frames']} (MD {found['md_frames']})",
                f"{100 * found['within_3_sd']:.0f} %",
                f"{found['learned_energy_per_residue']['largest_deviation_sd']:.1f}",
                f"{found['moved_angstrom']['max']:.2f} (MD {found['md_moved_angstrom']['max']:.2f})",
                f"{100 * found['moved_at_most_0.5']:.0f} %",
                f"{100 * found['intact']:.0f} %",
                str(found["refused"]),
                " / ".join(str(found["statuses"][s]) for s in ("pass", "strained", "broken")),
            ]
        )
    return markdown(headings, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--proteins", nargs="+", default=["villin", "2op7_A"], metavar="NAME")
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=200, help="of the minimiser, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "hybrid_frames.json")
    options = parser.parse_args()
    settings = {
        "weights": str(options.weights),
        "seed": options.seed,
        "duration_ps": DURATION,
        "minimize": options.iterations,
        "contacts_limit": LIMITS.contacts,
        "version": __version__,
    }
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    if options.output.exists():
        before = json.loads(options.output.read_text())
        if before["settings"] == settings:
            rows = before["rows"]
    results: dict[str, Any] = {}

    def save() -> None:
        write_json(options.output, {"settings": settings, "results": results, "rows": rows})

    for name in options.proteins:
        reference = Reference(name)
        learned = learned_frames(reference, options.weights, options.frames, options.seed)
        # an order of its own, so that a later call for more frames goes on with others
        numbers = np.random.default_rng(0).permutation(len(reference.frames))[: options.frames]
        md = [frame_at(reference.model, reference.frames[number]) for number in numbers]
        mine = rows.setdefault(name, {"learned": [], "md": []})
        # in turn, so that a run cut short compares like numbers
        for i in range(options.frames):
            for source, frames, duration in (("learned", learned, DURATION), ("md", md, 0.0)):
                if len(mine[source]) == i:
                    mine[source].append(measure(reference, frames[i], duration, options.iterations, seed=i))
                    print(name, source, i, mine[source][-1]["status"], mine[source][-1]["findings"], flush=True)
            if i:
                results[name] = compare(mine["learned"][: options.frames], mine["md"][: options.frames])
            save()
    print(table(results))


if __name__ == "__main__":
    main()
