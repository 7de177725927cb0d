"""The README's table of what the weights can do, from the files that the other benchmarks wrote.

    python -m benchmarks.summary               # print it
    python -m benchmarks.summary --markdown    # and put it into the block results:summary of README.md

Nothing is measured here. A part whose file is missing is left out; a file of the first edition, whose figures were made
otherwise, is refused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.next_frame import pooled_bands
from benchmarks.lib.paths import RESULTS, ROOT
from benchmarks.lib.published_results import markdown
from benchmarks.lib.results_page import write_block
from openmm_starmd.release.figures import known, means

README = ROOT / "README.md"
PAGE = "docs/results.md"
HELD_OUT = "held out"

Content = dict[str, Any]


def read(folder: Path, name: str) -> Content | None:
    """A file of results, or None where there is none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def figure(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return f"{value:.{digits}f}" if value is not None and known(value) else "-"


def fidelity(content: Content) -> str:
    """The held-out proteins at one stride, each beside MD and the elastic network, and what follows."""
    proteins, settings = content["proteins"], content["settings"]
    if not all("floor" in found for found in proteins.values()):
        raise ValueError("fidelity.json is of the first edition: run python -m benchmarks.fidelity")
    heads = ["protein never seen", "residues", "MD (ps)", "valid %", "RMSF r", "MD with MD", "elastic network"]
    heads += ["RMSF amplitude, MD = 1"]
    rows = []
    for name, found in proteins.items():
        model, second = found["model"], found["second"] or {}
        rows.append(
            [
                name,
                str(found["residues"]),
                f"{found['frames'] * settings['stride']:g}",
                f"{100 * model['valid']:.1f}",
                figure(model["rmsf_correlation"]),
                figure(second.get("rmsf_correlation")),
                figure(found["networks"][found["floor"]]),
                figure(model["rmsf_amplitude"]),
            ]
        )
    rmsf = means(proteins)["rmsf"]
    cells = [f"**{figure(rmsf[key])}**" for key in ("model", "second", "floor")]
    rows.append(["**mean**", "", "", "", *cells, ""])
    below = rmsf["below_floor"]
    gain = rmsf["model"] - rmsf["floor"]
    said = f"On average its r is {abs(gain):.2f} {'above' if gain > 0 else 'below'} the elastic network's, "
    said += f"no higher on {', '.join(below)}." if below else f"higher on all {len(proteins)}."
    return (
        f"`{settings['weights']}`, frames {settings['stride']:g} ps apart:\n\n{markdown(heads, rows)}\n\n{said} "
        "That network knows the start structure alone and has learned nothing. "
        f"[More]({PAGE}#held-out-proteins-10-ps)"
    )


def drawn(rows: list[Content]) -> str:
    """A sentence on frames drawn after MD's own histories; nothing where none were."""
    if not rows:
        return ""
    bands = pooled_bands([row["bands"] for row in rows])
    back, slow = bands["all"], bands["PC 1-3"]
    return (
        f" Frames drawn ({len(rows)} proteins) go {100 * back['reversion_model']:.0f} % of the way back to the start "
        f"structure, MD {100 * back['reversion_md']:.0f} %; along the three widest motions they have "
        f"{slow['spread'] / slow['needed']:.2f} of the spread that they should have."
    )


def denoising(content: Content) -> list[str]:
    """A line on the shortest stride: the next frame told from MD's history at the highest noise, what draws do."""
    lines = []
    group = content["groups"].get(HELD_OUT)
    for stride in [min(content["strides"])] if group else []:
        errors = [error for error in group["errors"] if error["stride"] == stride]
        rows = [row for row in group["linear"] if row["stride"] == stride]
        if not errors or not all("rmse" in row for row in rows):
            continue
        tau = max(error["tau"] for error in errors)
        top = [error for error in errors if error["tau"] == tau]
        values = [[e["rmse"] for e in top], [e["last_frame"] for e in top], [row["rmse"] for row in rows]]
        model, last, linear = (float(np.sqrt(np.mean(np.square(x)))) for x in values)
        lines.append(
            f"**The next frame, {stride:g} ps on**, told from MD's own history at the highest noise (τ {tau:g}, "
            f"{len(top)} proteins): RMSE {model:.2f} Å; the last frame repeated {last:.2f} Å, a linear predictor "
            f"{linear:.2f} Å." + drawn([row for row in group["reversion"] if row["stride"] == stride])
        )
    return lines


def bpti(content: Content) -> str:
    """A line on BPTI at 200 ps."""
    rows = content["rows"]
    model = next(row for label, row in rows.items() if label.startswith("**") and "mean over seeds" in label)
    network = [row for label, row in rows.items() if label.startswith("elastic network")]
    closest = min(network, key=lambda row: abs(row["amplitude"] - model["amplitude"]))
    stretch = next(row for label, row in rows.items() if "2.5 µs of the other" in label)

    def said(row: Content) -> str:
        return f"{figure(row['r'])}, {figure(row['amplitude'])} and {figure(row['recall'])}"

    return (
        f"**BPTI** ({content['residues']} residues, {model['frames']} frames of {content['stride_ps']:g} ps, beside "
        f"100 µs of MD): RMSF r, amplitude and recall {said(model)}; as many frames of an elastic network "
        f"{said(closest)}; of 2.5 µs of MD {said(stretch)}. {100 * model['valid']:.1f} % valid; of the network "
        f"{100 * closest['valid']:.0f} %."
    )


def side_chains(content: Content) -> str:
    """A line on frames judged by all heavy atoms."""
    found = [protein["side_chains"] for protein in content["proteins"].values() if protein.get("side_chains")]
    model, md = (100 * np.mean([p[kind]["within_limits"] for p in found]) for kind in ("model", "reference"))
    return (
        f"**All heavy atoms**, side chains drawn: in {model:.0f} % of the frames Ramachandran and rotamer outliers are "
        f"within the paper's limits, in {md:.0f} % of MD's ({len(found)} proteins never seen). Frames hold the "
        "backbone unless you ask for more."
    )


def speed(content: Content) -> str:
    """A line on speed."""
    platform = content.get("platform", "CPU")
    here = "one thread each" if content["device"] == "cpu" else f"on {content['machine']}"
    return (
        f"**Speed**: {np.median(content['ratio']):.0f} times the ns/day of OpenMM's {platform} platform in implicit "
        f"solvent, {here}, frames {content['stride_ps']:g} ps apart ({content['residues']} residues)."
    )


def summary(folder: Path) -> str:
    """Markdown of all parts whose files lie in a folder."""
    parts, lines = [], []
    content = read(folder, "fidelity")
    if content:
        parts.append(fidelity(content))
    if content := read(folder, "denoising"):
        lines += denoising(content)
    if (content := read(folder, "rivals")) and "bpti" in content:
        lines.append(bpti(content["bpti"]))
    if content := read(folder, "side_chains"):
        lines.append(side_chains(content))
    if content := read(folder, "speed"):
        lines.append(speed(content))
    parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=README,
        help="file whose block results:summary is to hold it; README.md if none is named",
    )
    arguments = parser.parse_args()
    text = summary(arguments.results)
    print(text)
    if arguments.markdown:
        write_block(arguments.markdown, "summary", text)


if __name__ == "__main__":
    main()
