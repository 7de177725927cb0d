"""Two proteins that nothing is tuned on: BPTI beside 100 µs of MD and other models, DHFR beside 5 ns of MD.

    python -m benchmarks.rivals                    # both; --only bpti or --only dhfr
    python -m benchmarks.rivals --markdown         # and put the tables into docs/results.md

Reads ``../shared/data/rivals/bpti`` and ``../shared/data/eval`` (``--data``), which are not part of the repository.
What is drawn was fixed before it was seen: BPTI, 3 seeds of 250 frames 200 ps apart from ``start.pdb``; DHFR, 3 seeds
of 250 frames 5 ps apart from the PDB file's trace; the weights' own settings.

The reference of BPTI is every fourth frame of the first 100 µs. Each other row is measured against it as it is: a run
of 250 frames cannot reach what 100 µs reach, so stretches of the second 100 µs stand beside it, and an elastic network
of the start, which has learned nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch
from numpy.typing import NDArray
from openmm import unit
from openmm.app import PDBFile

from benchmarks.lib.drawing import Drawing, rollouts
from benchmarks.lib.paths import RESULTS, RESULTS_PAGE, ROOT
from benchmarks.lib.published_results import markdown
from benchmarks.lib.results_page import write_block, write_json
from openmm_starmd import __version__
from openmm_starmd.analysis import coverage
from openmm_starmd.analysis.flexibility import amplitude_ratio, correlation, rmsd_against_lag, rmsf
from openmm_starmd.analysis.network_models import FLOOR, Modes, network_modes, network_rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.atoms.ca_trace import backbone_from_trace
from openmm_starmd.geometry.superposition import rmsd
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights
from openmm_starmd.protein.protein import Protein
from openmm_starmd.release.checks import training_data

Array = NDArray[np.float64]
Figures = dict[str, Any]

SHARED = ROOT.parent / "shared" / "data"
EVERY = 4
"""Frames of the first 100 µs of BPTI that the reference steps over."""
MD_INTERVAL = 10_000.0
"""ps between the frames of the MD of BPTI; the time stamps in the files are wrong."""
STRETCHES = {"1 µs": 100, "2.5 µs": 250}
STRETCH_COUNT = 20
AMPLITUDES = (0.7, 0.85, 1.0)
NETWORK_SEEDS = range(10)
RIVALS = {
    "aSAMt": ("asamt.pdb", "asamt_100.dcd", "100 frames"),
    "BioEmu": ("bioemu.pdb", "bioemu_100.xtc", "100 frames, version and filtering not stated"),
    "MDGen": ("mdgen.pdb", "mdgen_250x400ps.xtc", "250 x 400 ps"),
}
LAGS_PS = (5, 10, 20, 50, 100, 200, 500, 1000)
DHFR_INTERVAL = 5.0


def traces(topology: Path, trajectory: Path | None = None) -> Array:
    """Cα positions [frames, N, 3] in nm of a trajectory, or of the structure that is its topology."""
    start = mdtraj.load(str(topology))
    frames = start if trajectory is None else mdtraj.load(str(trajectory), top=start.topology)
    return frames.xyz[:, alpha_carbons(start.topology)].astype(np.float64)


@dataclass(frozen=True)
class Reference:
    """MD with its profile and its histogram in the plane of its first two principal components.

    Attributes
    ----------
    rmsf : ndarray [N]
        nm.
    projection : Projection
    edges : list of ndarray
        Of :data:`openmm_starmd.analysis.coverage.BINS` bins per dimension.
    counts : ndarray, int
        One bin more at either end.
    bonded : ndarray [N - 1], bool
    """

    rmsf: Array
    projection: coverage.Projection
    edges: list[Array]
    counts: NDArray[np.int64]
    bonded: NDArray[np.bool_]

    @classmethod
    def of(cls, frames: Array, bonded: NDArray[np.bool_]) -> Reference:
        """From Cα positions [frames, N, 3] in nm."""
        projection = coverage.fit_projection(frames)
        points = projection.transform(frames)
        low, high = points.min(0), points.max(0)
        # the reference's own extremes must not fall beyond the ends by rounding
        margin = 1e-3 * (high - low)
        edges = [np.linspace(a, b, coverage.BINS + 1) for a, b in zip(low - margin, high + margin, strict=True)]
        return cls(rmsf(frames), projection, edges, coverage.histogram(points, edges), bonded)

    def covered(self, frames: Array) -> tuple[float, float]:
        """Jensen-Shannon distance (base 2), and the share of the reference's bins that are reached."""
        if not len(frames):
            return float("nan"), 0.0
        counts = coverage.histogram(self.projection.transform(frames), self.edges)
        shared = ((counts > 0) & (self.counts > 0)).sum()
        return coverage.jensen_shannon(self.counts, counts), float(shared / (self.counts > 0).sum())

    def figures(self, frames: Array) -> Figures:
        """What a run [frames, N, 3] in nm amounts to; frames that are not finite count as invalid, and for no more."""
        valid = judge(frames, self.bonded).valid
        finite = frames[np.isfinite(frames).all((1, 2))]
        profile = rmsf(finite) if len(finite) > 1 else np.full(len(self.rmsf), np.nan)
        distance, recall = self.covered(finite)
        distance_valid, recall_valid = self.covered(frames[valid])
        found = {
            "valid": float(valid.mean()),
            "amplitude": amplitude_ratio(profile, self.rmsf),
            "r": correlation(profile, self.rmsf),
            "jsd": distance,
            "recall": recall,
            "jsd_valid": distance_valid,
            "recall_valid": recall_valid,
        }
        # JSON has no nan
        defined = {key: value if np.isfinite(value) else None for key, value in found.items()}
        return {"frames": len(frames), **defined, "rmsf_nm": profile.tolist() if len(finite) > 1 else None}


KEYS = ("valid", "amplitude", "r", "jsd", "recall", "jsd_valid", "recall_valid")


def averaged(runs: Sequence[Figures]) -> Figures:
    """Mean and standard deviation over runs of each figure, and the runs' own; what is undefined is left out."""
    own = [{key: run[key] for key in KEYS} for run in runs]
    result: Figures = {"frames": runs[0]["frames"], "runs": own}
    for key in KEYS:
        values = [run[key] for run in own if run[key] is not None]
        result[key] = float(np.mean(values)) if values else None
        result[f"{key}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return result


def pooled(runs: Sequence[Array], reference: Reference) -> Figures:
    """All runs as one: the squares of their profiles averaged, their frames counted together."""
    result = reference.figures(np.concatenate(runs))
    profile = pooled_profile(runs)
    return result | {
        "amplitude": amplitude_ratio(profile, reference.rmsf),
        "r": correlation(profile, reference.rmsf),
        "rmsf_nm": profile.tolist(),
    }


def pooled_profile(runs: Sequence[Array]) -> Array:
    """Root of the mean over runs of the squared RMSF, [N], nm; each run about its own mean."""
    finite = [run[np.isfinite(run).all((1, 2))] for run in runs]
    return np.sqrt(np.mean([rmsf(run) ** 2 for run in finite if len(run) > 1], axis=0))


def stretches(frames: Array, length: int, count: int = STRETCH_COUNT) -> list[Array]:
    """`count` stretches of `length` frames, their starts evenly spaced from the first frame to the last possible."""
    if length > len(frames):
        raise ValueError(f"no stretch of {length} frames in {len(frames)}")
    return [frames[i : i + length] for i in np.linspace(0, len(frames) - length, count).round().astype(int)]


def network_frames(alphas: Array, modes: Modes, amplitude: float, frames: int, seed: int) -> Array:
    """Independent frames [frames, N, 3] of a network about a structure [N, 3], their mean RMSF `amplitude`, nm."""
    scale = amplitude / modes.rmsf().mean()
    draws = np.random.default_rng(seed).normal(size=(frames, len(modes.values))) / np.sqrt(modes.values)
    return alphas + scale * (draws @ modes.vectors.T).reshape(frames, *alphas.shape)


def bpti(arguments: argparse.Namespace) -> Figures:
    """All rows of BPTI: label, frames, and figures by key; runs of the model by seed."""
    folder = arguments.data / "rivals" / "bpti"
    start = mdtraj.load(str(folder / "start.pdb"))
    alphas = traces(folder / "start.pdb")[0]
    bonded = bonded_neighbours(start)
    first = traces(folder / "md_ca.pdb", folder / "md_A_100us_10ns.xtc")
    second = traces(folder / "md_ca.pdb", folder / "md_B_100us_10ns.xtc")
    reference = Reference.of(first[::EVERY], bonded)
    modes = network_modes(alphas, FLOOR, bonded)

    rows: dict[str, Figures] = {"MD, another 100 µs": reference.figures(second)}
    drawn = model_runs(folder / "start.pdb", 200.0, arguments)
    seeds = [reference.figures(run) for run in drawn]
    for seed, run, figures in zip(arguments.seeds, drawn, seeds, strict=True):
        rows[f"{arguments.weights}, {len(run)} x 200 ps, seed {seed}"] = figures
    rows[f"**{arguments.weights}**, mean over seeds"] = averaged(seeds)
    rows[f"**{arguments.weights}**, seeds pooled"] = pooled(drawn, reference)
    for name, (topology, trajectory, what) in RIVALS.items():
        rows[f"{name}, {what}"] = reference.figures(traces(folder / topology, folder / trajectory))
    for name, length in STRETCHES.items():
        rows[f"MD, {STRETCH_COUNT} stretches of {name} of the other 100 µs"] = averaged(
            [reference.figures(part) for part in stretches(second, length)]
        )
        rows[f"MD, {STRETCH_COUNT} stretches of {name} of the reference"] = averaged(
            [reference.figures(part) for part in stretches(first, length)]
        )
    for amplitude in AMPLITUDES:
        size = amplitude * reference.rmsf.mean()
        runs = [network_frames(alphas, modes, size, arguments.frames, seed) for seed in NETWORK_SEEDS]
        rows[f"elastic network of the start, amplitude {amplitude:g}"] = averaged(
            [reference.figures(run) for run in runs]
        )
    away = {
        "md": rmsd(first[::EVERY], alphas).mean(),
        "model": [[float(np.nanmean(rmsd(part, alphas))) for part in np.array_split(run, 5)] for run in drawn],
        "valid": [[float(judge(part, bonded).valid.mean()) for part in np.array_split(run, 5)] for run in drawn],
    }
    return {
        "residues": len(alphas),
        "stride_ps": 200.0,
        "reference_frames": len(first[::EVERY]),
        "reference_interval_ps": EVERY * MD_INTERVAL,
        "bins": coverage.BINS,
        "explained": float(reference.projection.explained.sum()),
        "reference_rmsf_nm": reference.rmsf.tolist(),
        "fifths": away,
        "rows": rows,
    }


def model_runs(path: Path, stride: float, arguments: argparse.Namespace) -> list[Array]:
    """Cα positions [frames, N, 3] in nm by seed, drawn from the structure in `path`."""
    drawing = Drawing(arguments.weights, arguments.steps, arguments.device, store=arguments.store)
    found = rollouts(path, arguments.frames, arguments.seeds, stride, drawing)
    return [run.xyz.astype(np.float64) for run in found]


def dhfr(arguments: argparse.Namespace) -> Figures:
    """Lag curves and profiles of DHFR: the model's seeds, MD in stretches as long as they are, and a network."""
    folder = arguments.data / "eval"
    crystal = traces(folder / "dhfr_1rx2.pdb")[0]
    everything = raw_netcdf(folder / "dhfr_1rx2_ca_5ns.nc")
    kept, extra = corresponding(everything, crystal)
    md = everything[:, kept]
    with tempfile.TemporaryDirectory() as temporary:
        start = Path(temporary) / "dhfr_1rx2.pdb"
        bonded = write_start(crystal, arguments.data / "nasty" / "5dfr_solv-cube_equil.pdb", start)
        drawn = model_runs(start, DHFR_INTERVAL, arguments)
    length = arguments.frames
    if len(md) < 2 * length:
        raise ValueError(f"{length} frames; MD has {len(md)}, of which two stretches of that length are needed")
    parts = [md[i : i + length] for i in range(0, len(md) - length + 1, length)]
    whole = [run[np.isfinite(run).all((1, 2))] for run in drawn]
    shortest = min(map(len, whole))
    if shortest < 3:
        raise ValueError(f"a run of {arguments.weights} broke down after {shortest} frames; leave out its seed")
    lags = [round(ps / DHFR_INTERVAL) for ps in LAGS_PS if ps / DHFR_INTERVAL < shortest]
    profiles, model = [rmsf(part) for part in parts], pooled_profile(drawn)
    squares = np.square(profiles)
    # each stretch is compared with all others together
    others = np.sqrt((squares.sum(0) - squares) / (len(parts) - 1))

    def beside_md(profile: Array) -> Figures:
        return {
            "r": float(np.mean([correlation(profile, each) for each in profiles])),
            "r_pooled": correlation(profile, pooled_profile(parts)),
            "amplitude": amplitude_ratio(profile, pooled_profile(parts)),
        }

    def curves(runs: Sequence[Array]) -> Figures:
        found = np.array([rmsd_against_lag(run, lags) for run in runs])
        return {
            "lag_nm": found.mean(0).tolist(),
            "lag_nm_sd": found.std(0, ddof=1).tolist() if len(found) > 1 else None,
            "frames": [len(run) for run in runs],
            "rmsd_to_start_nm": float(np.mean([rmsd(run, crystal).mean() for run in runs])),
            "valid": float(np.mean([judge(run, bonded).valid.mean() for run in runs])),
            "rmsf_nm": pooled_profile(runs).tolist(),
        }

    return {
        "residues": len(crystal),
        "stride_ps": DHFR_INTERVAL,
        "frames": length,
        "left_out_atom": extra,
        "longest_trained": longest_trained(arguments.weights),
        "lags_ps": [lag * DHFR_INTERVAL for lag in lags],
        "rows": {
            f"MD, {len(parts)} stretches": curves(parts)
            | {
                "r": float(np.mean([correlation(a, b) for a, b in zip(profiles, others, strict=True)])),
                "amplitude": float(np.mean([amplitude_ratio(a, b) for a, b in zip(profiles, others, strict=True)])),
            },
            f"**{arguments.weights}**, {len(drawn)} seed{'s' * (len(drawn) > 1)}": curves(whole)
            | beside_md(model)
            | {"seeds": [beside_md(rmsf(run)) | curves([run]) for run in whole]},
            **{
                f"elastic network {name} of the start": {"r": beside_md(network_rmsf(crystal, name, bonded))["r"]}
                for name in (FLOOR, "GNM 10 Å")
            },
        },
    }


def longest_trained(weights: str) -> int | None:
    """Residues of the longest protein that weights were trained on; None where they do not say."""
    listing = training_data(load_weights(weights).path.parent)
    return max(len(protein["sequence"]) for protein in listing["proteins"]) if listing else None


def raw_netcdf(path: Path) -> Array:
    """Positions [frames, atoms, 3] in nm of an Amber NetCDF trajectory, whatever its atoms are."""
    with mdtraj.formats.NetCDFTrajectoryFile(str(path)) as file:
        return np.asarray(file.read()[0], dtype=np.float64) / 10


def corresponding(frames: Array, trace: Array) -> tuple[NDArray[np.int64], Figures]:
    """Which atoms of a trajectory are those of a trace that has one atom less, told by distances.

    Parameters
    ----------
    frames : ndarray [frames, N + 1, 3]
    trace : ndarray [N, 3]
        nm.

    Returns
    -------
    kept : ndarray [N], int
    extra : dict
        Of the atom left out: its index, the three residues nearest to it on average, its mean distance from the atom
        before it (nm) and the RMSD (nm) of the first frame to the trace without it and, the next best, without another
        one.
    """
    if frames.shape[1] != len(trace) + 1:
        raise ValueError(
            f"{frames.shape[1]} atoms in the trajectory and {len(trace)} in the structure; expected one more"
        )
    without = [np.delete(np.arange(frames.shape[1]), i) for i in range(frames.shape[1])]
    off = np.array([rmsd(frames[:1, kept], trace)[0] for kept in without])
    best, second = np.argsort(off)[:2]
    apart = np.linalg.norm(frames - frames[:, best : best + 1], axis=-1).mean(0)
    return without[best], {
        "index": int(best),
        "nearest_residues": (np.argsort(apart[without[best]])[:3] + 1).tolist(),
        "from_the_one_before_nm": float(apart[best - 1]),
        "rmsd_without_nm": float(off[best]),
        "rmsd_without_the_next_best_nm": float(off[second]),
    }


def write_start(trace: Array, like: Path, path: Path) -> NDArray[np.bool_]:
    """Write a full structure on a Cα trace [N, 3] in nm, and tell which neighbours are bonded.

    N and C are estimated from the trace beside another structure of the same protein (`like`), whose side chains are
    carried along.
    """
    pdb = PDBFile(str(like))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        protein = Protein.from_openmm(pdb.topology, pdb.positions)
    if protein.length != len(trace):
        raise ValueError(f"{like} has {protein.length} residues and the trace {len(trace)}; give the same protein")
    backbone = backbone_from_trace(trace, np.asarray(protein.backbone), protein.bonded)
    heavy = protein.frame_positions(backbone, "heavy")
    with path.open("w") as file:
        # no header: it has the date, which the store would take for another structure, and the other's box
        PDBFile.writeModel(protein.frame_topology("heavy"), heavy * unit.nanometer, file)
    return np.asarray(protein.bonded)


def bpti_table(results: Figures) -> str:
    """Markdown of BPTI: the table and what stands behind it."""

    def cell(row: Figures, key: str, scale: float, digits: int) -> str:
        if row[key] is None:
            return "-"
        sd = row.get(f"{key}_sd")
        return f"{scale * row[key]:.{digits}f}" + ("" if sd is None else f" ± {scale * sd:.{digits}f}")

    shown = [
        ("valid", 100, 1),
        ("amplitude", 1, 2),
        ("r", 1, 2),
        ("jsd", 1, 2),
        ("recall", 1, 2),
        ("recall_valid", 1, 2),
    ]
    rows = [
        [label, str(row["frames"]), *(cell(row, *each) for each in shown)] for label, row in results["rows"].items()
    ]
    heads = ["BPTI (58)", "frames", "valid %", "RMSF amplitude", "RMSF r", "JSD", "recall", "recall, valid frames"]
    fifths = results["fifths"]
    notes = [
        f"Reference: {results['reference_frames']} frames of 100 µs of MD, {results['reference_interval_ps'] / 1000:g} "
        f"ns apart. JSD (distance, base 2) and recall on {results['bins']} bins (and one beyond either end) in each of "
        f"its first two principal components, {100 * results['explained']:.0f} % of its variance; all frames count, in "
        "the last column only valid ones. ± is the standard deviation over seeds or stretches.",
        "The other 100 µs is the ceiling. A row with few frames over a short time cannot reach it: beside the model "
        f"stand the stretches of MD and the elastic network ({FLOOR}; frames independent of each other, amplitude set "
        "by hand), which has learned nothing.",
        f"RMSD to the start (Å): MD {10 * fifths['md']:.2f}; model, by fifths of each seed's run: "
        + "; ".join(" ".join(f"{10 * x:.2f}" for x in run) for run in fifths["model"])
        + ". Valid % by the same fifths: "
        + "; ".join(" ".join(f"{100 * x:.0f}" for x in run) for run in fifths["valid"])
        + ".",
        "Protocol fixed before anything was drawn; nothing was trained, chosen or tuned on BPTI.",
    ]
    return markdown(heads, rows) + "\n\n" + "\n".join(f"- {note}" for note in notes)


def dhfr_table(results: Figures) -> str:
    """Markdown of DHFR: the table and what stands behind it."""
    rows = []
    for label, row in results["rows"].items():
        lag = row.get("lag_nm")
        sds = row.get("lag_nm_sd") or [None] * len(results["lags_ps"])
        rows.append(
            [
                label,
                f"{100 * row['valid']:.1f}" if "valid" in row else "-",
                f"{row['r']:.2f}",
                f"{row['amplitude']:.2f}" if "amplitude" in row else "-",
                f"{10 * row['rmsd_to_start_nm']:.2f}" if lag else "-",
                *(
                    [
                        f"{10 * x:.2f}" + ("" if sd is None else f" ± {10 * sd:.2f}")
                        for x, sd in zip(lag, sds, strict=True)
                    ]
                    if lag
                    else ["-"] * len(results["lags_ps"])
                ),
            ]
        )
    heads = [f"DHFR ({results['residues']})", "valid %", "RMSF r", "RMSF amplitude", "RMSD to start (Å)"]
    heads += [f"RMSD (Å) at {lag:g} ps" for lag in results["lags_ps"]]
    extra, longest = results["left_out_atom"], results["longest_trained"]
    nearest = ", ".join(map(str, extra["nearest_residues"]))
    span = results["frames"] * results["stride_ps"] / 1000
    notes = [
        f"{results['frames']} frames {results['stride_ps']:g} ps apart, {span:g} ns, from the trace of 1RX2 (N and C "
        "estimated from it beside 5DFR, side chains of 5DFR). MD is cut into stretches as long. r of the model: its "
        "profile pooled (squares) over seeds, mean over the stretches; of MD: each stretch with all others pooled. "
        "Amplitude is over the pooled profile of MD.",
        f'The trajectory has a "CA" that is no residue: atom {extra["index"] + 1}, '
        f"{10 * extra['from_the_one_before_nm']:.0f} Å from the last residue. Without it the first frame lies "
        f"{10 * extra['rmsd_without_nm']:.2f} Å from 1RX2, without any other at least "
        f"{10 * extra['rmsd_without_the_next_best_nm']:.2f} Å. Nearest to it are residues {nearest}, "
        "where folate, which has an atom of that name, binds in 1RX2: MD had a ligand, then, and the model has none.",
        "Nothing was trained, chosen or tuned on DHFR"
        + (f"; the weights' longest training protein has {longest} residues." if longest else "."),
    ]
    return markdown(heads, rows) + "\n\n" + "\n".join(f"- {note}" for note in notes)


PARTS = {"bpti": (bpti, bpti_table, "rivals"), "dhfr": (dhfr, dhfr_table, "dhfr")}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one of the two; the file's other part stays as it is")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with rivals/, eval/ and nasty/")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frames", type=int, default=250, help="drawn for each seed")
    parser.add_argument("--steps", type=int, help="denoising steps per frame; the weights' own")
    parser.add_argument("--store", type=Path, help="directory that keeps rollouts, so that none is drawn twice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS / "rivals.json")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=RESULTS_PAGE,
        help="file whose blocks results:rivals and results:dhfr are to hold the tables; docs/results.md by default",
    )
    arguments = parser.parse_args(words)
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    content = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    for part in [arguments.only] if arguments.only else PARTS:
        measure, table, block = PARTS[part]
        needed = arguments.data / ("rivals/bpti" if part == "bpti" else "eval")
        if not needed.is_dir():
            print(f"left out: {part} needs {needed}, which is not part of the repository (--data)", file=sys.stderr)
            continue
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k in KEPT}
        content[part] = {"settings": settings | {"version": __version__}, **measure(arguments)}
        write_json(arguments.json, content, ensure_ascii=False)
        text = table(content[part])
        print(text + "\n", flush=True)
        if arguments.markdown:
            write_block(arguments.markdown, block, text)


KEPT = ("weights", "seeds", "frames", "steps", "device", "threads")


if __name__ == "__main__":
    main()
