"""Many proteins in one Context beside the same proteins alone: forces, temperatures, energies, RMSF, kill, failure.

    python -m benchmarks.together --structures ../shared/data/structures --scratch /tmp/together

Three proteins of the training pool, two replicas of each, on the CPU platform, by ``make-data`` and by
``make-data --together``. What two replicas alone differ by is the yardstick. Runs are kept in --scratch.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm as mm
from openmm import unit

from benchmarks.lib.paths import RESULTS, ROOT
from benchmarks.lib.results_page import write_block, write_json
from openmm_starmd.analysis.flexibility import correlation, rmsf
from openmm_starmd.atoms.systems import MoleculeTerms, joined_system
from openmm_starmd.classical.recording import RunFiles, read_state
from openmm_starmd.classical.replicas import Protocol, make_context, make_replica, make_system
from openmm_starmd.classical.together import CUTOFF, make_data_together
from openmm_starmd.files.reading import read_structure

PROTEINS = ("2beg_A", "1vii_A", "1t2y_A")
INTERVAL, BLOCKS, REPLICAS = 0.2, 5, (1, 2)
GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)


class Ledger:
    """Temperatures and potential energies (without cutoff, whoever moved) of runs, kept in a JSON file."""

    def __init__(self, path: Path, tree: Path, common_motion: bool) -> None:
        self.path, self.tree, self.common_motion = path, tree, common_motion
        self.rows: dict[str, list[list[float]]] = json.loads(path.read_text()) if path.exists() else {}
        self._judges: dict[str, tuple[mm.Context, np.ndarray, int]] = {}

    def observe(self, label: str, when: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        name = label.split()[0]
        if name not in self._judges:
            system = make_system(read_structure(self.tree / name / f"{name}.model.pdb").topology, Protocol())
            count = system.getNumParticles()
            masses = np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(count)])
            freedom = 3 * count - system.getNumConstraints() - (0 if self.common_motion else 3)
            self._judges[name] = make_context(system, mm.VerletIntegrator(0.001), "CPU", 1), masses, freedom
        judge, masses, freedom = self._judges[name]
        judge.setPositions(positions)
        energy = judge.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        temperature = float((masses[:, None] * velocities**2).sum() / freedom / GAS_CONSTANT)
        self.rows.setdefault(label, []).append([when, temperature, energy])

    def keep(self) -> None:
        write_json(self.path, self.rows)


def largest_force_difference(trees: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """Forces in one Context with the cutoff beside those of each alone without, at the last state of each run alone."""
    single, positions, terms = [], [], []
    for index, name in enumerate(names):
        topology = read_structure(trees / name / f"{name}.model.pdb").topology
        x = read_state(RunFiles(trees / name, name, 1)).positions
        single.append(forces(make_system(topology, Protocol()), x))
        terms.append(MoleculeTerms(make_system(topology, Protocol(cutoff=CUTOFF))))
        positions.append(x - x.mean(0) + np.array([12.0 * (index - 1), 0, 0]))
    both, figures = forces(joined_system(terms), np.concatenate(positions)), {}
    for name, alone in zip(names, single, strict=True):
        mine, both = both[: len(alone)], both[len(alone) :]
        figures[name] = {"rms": float(np.sqrt((alone**2).mean())), "largest": float(np.abs(mine - alone).max())}
    return figures


def forces(system: mm.System, positions: np.ndarray) -> np.ndarray:
    context = make_context(system, mm.VerletIntegrator(0.001), "CPU", 1)
    context.setPositions(positions)
    return context.getState(forces=True).getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    blocks = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    return float(values.mean()), float(blocks.std(ddof=1) / np.sqrt(BLOCKS))


def figures_of(tree: Path, name: str, ledger: Ledger) -> dict[str, Any]:
    """Of one protein in one tree: means over both replicas, and RMSF profiles."""
    rows = [np.array(ledger.rows[f"{name} R{replica}"]) for replica in REPLICAS]
    profiles, folder = [], tree / name
    for replica in REPLICAS:
        run = mdtraj.load(str(folder / f"{name}_prod_R{replica}_fit.xtc"), top=str(folder / f"{name}.pdb"))
        profiles.append(np.asarray(rmsf(run.xyz[:, run.topology.select("name CA")])))
    return {
        "temperature": [mean_and_error(one[:, 1]) for one in rows],
        "energy": [mean_and_error(one[:, 2]) for one in rows],
        "rmsf": [profile.tolist() for profile in profiles],
    }


def pooled(runs: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean over replicas, and its error: the larger of what blocks and what the replicas' difference say."""
    means, errors = np.array(runs).T
    between = np.abs(means[0] - means[1]) / 2
    return float(means.mean()), float(max(np.sqrt((errors**2).sum()) / len(runs), between))


def compared(alone: dict[str, Any], together: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key in ("temperature", "energy"):
        (one, error), (other, other_error) = pooled(alone[key]), pooled(together[key])
        spread = float(np.hypot(error, other_error))
        result[key] = {"alone": one, "together": other, "error": spread, "in_errors": (other - one) / spread}
    ones, others = np.array(alone["rmsf"]), np.array(together["rmsf"])
    pools = np.sqrt((ones**2).mean(0)), np.sqrt((others**2).mean(0))
    amplitude = [float(np.sqrt((profile**2).mean())) for profile in (*ones, *others)]
    result["rmsf"] = {
        "r_alone_with_together": float(correlation(*pools)),
        "r_between_replicas_alone": float(correlation(*ones)),
        "r_between_replicas_together": float(correlation(*others)),
        "amplitudes_alone_nm": amplitude[:2],
        "amplitudes_together_nm": amplitude[2:],
    }
    return result


def killed(structures: Path, prepared: Path, scratch: Path, names: list[str]) -> dict[str, Any]:
    """The command killed (-9) once it has saved, and run again."""
    tree = scratch / "killed"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(prepared, tree)
    inputs = [str(structures / f"{name}.pdb") for name in names]
    command = [sys.executable, "-m", "openmm_starmd.cli", "make-data", *inputs, "--output", str(tree), "--together"]
    command += ["--interval", str(INTERVAL), "--platform", "CPU", "--duration"]
    process = subprocess.Popen([*command, "1000"], cwd=ROOT)
    paths = [tree / name / f"{name}_prod_R1_fit.xtc" for name in names]
    while not all(path.exists() and path.stat().st_size for path in paths):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {n: read_state(RunFiles(tree / n, n, 1)).time for n in names}
    kept = {n: load_whole(tree, n, round(before[n] / INTERVAL)) for n in names}
    target = round((max(before.values()) + 5 * INTERVAL) / INTERVAL) * INTERVAL
    subprocess.run([*command, f"{target:.6g}"], cwd=ROOT, check=True)
    result = {}
    for name in names:
        count = round(target / INTERVAL)
        after = load_whole(tree, name, count)
        steps = np.linalg.norm(np.diff(after, axis=0), axis=-1).mean(1)
        seam = round(before[name] / INTERVAL)
        result[name] = {
            "frames_at_the_kill": seam,
            "frames": len(after),
            "kept_bit_for_bit": bool(np.array_equal(after[:seam], kept[name])),
            "step_at_the_seam_over_median": float(steps[seam - 1] / np.median(steps)) if seam else None,
        }
    return result


def load_whole(tree: Path, name: str, frames: int) -> np.ndarray:
    if not frames:
        return np.zeros((0, 0, 3))
    folder = tree / name
    run = mdtraj.formats.XTCTrajectoryFile(str(folder / f"{name}_prod_R1_fit.xtc"))
    with run:
        return run.read(n_frames=frames)[0]


def failing(structures: Path, scratch: Path, names: list[str]) -> dict[str, Any]:
    """The first protein's state with two atoms in one place, and a picosecond more of all."""
    tree = scratch / "failing"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(scratch / "killed", tree)
    files = RunFiles(tree / names[0], names[0], 1)
    text = gzip.decompress(files.state.read_bytes()).decode()
    rows = re.findall(r"<Position [^>]*>", text)
    files.state.write_bytes(gzip.compress(text.replace(rows[21], rows[20]).encode()))
    was = read_state(files).time
    failed = make_data_together(
        [structures / f"{name}.pdb" for name in names], tree, was + 1, interval=INTERVAL, platform="CPU"
    )
    times = {name: read_state(RunFiles(tree / name, name, 1)).time for name in names}
    return {"failed": failed, "ps_before": was, "ps_after": times}


def table(results: dict[str, Any]) -> str:
    lines = [
        f"`make-data --together` (cutoff {CUTOFF:g} nm) beside `make-data`, {results['duration_ps']:g} ps, two "
        "replicas each, CPU platform. ± from blocks and between replicas, alone and together added in squares. RMSF r: "
        "pooled profiles alone with together, in brackets between two replicas alone and between two together; "
        "amplitude of each replica.",
        "",
        "| protein | largest force difference (rms force), kJ/mol/nm | temperature alone, together (K) | potential "
        "energy alone, together (kJ/mol) | RMSF r | RMSF alone | RMSF together (Å) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results["proteins"].items():
        force, rms = results["forces"][name], row["rmsf"]
        cells = [f"{force['largest']:.2f} ({force['rms']:.0f})"]
        for key in ("temperature", "energy"):
            one = row[key]
            cells.append(f"{one['alone']:.1f}, {one['together']:.1f} ± {one['error']:.1f}")
        cells.append(
            f"{rms['r_alone_with_together']:.2f} ({rms['r_between_replicas_alone']:.2f}, "
            f"{rms['r_between_replicas_together']:.2f})"
        )
        cells += [", ".join(f"{10 * a:.2f}" for a in rms[f"amplitudes_{how}_nm"]) for how in ("alone", "together")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    kill = results["killed"]
    counts = ", ".join(f"{row['frames_at_the_kill']} of {row['frames']}" for row in kill.values())
    seams = ", ".join(f"{row['step_at_the_seam_over_median']:.2f}" for row in kill.values())
    same = all(row["kept_bit_for_bit"] for row in kill.values())
    fail = results["failing"]
    others = ", ".join(f"{name} {ps:g} ps" for name, ps in fail["ps_after"].items())
    lines += [
        "",
        f"Killed (-9) and run again: {counts} frames were there, {'kept bit for bit' if same else 'NOT KEPT'}; the "
        f"step across the seam over the median step is {seams}.",
        "",
        f"Two atoms of {next(iter(fail['ps_after']))} put into one place at {fail['ps_before']:g} ps, and a picosecond "
        f"more asked for: {'; '.join(f'{label}: {why}' for label, why in fail['failed'].items())}. All then: {others}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=ROOT.parent / "shared" / "data" / "structures")
    parser.add_argument("--proteins", nargs="+", default=list(PROTEINS))
    parser.add_argument("--duration", type=float, default=20.0, help="ps of each run")
    parser.add_argument("--scratch", type=Path, required=True, help="folder where runs are kept")
    parser.add_argument("--json", type=Path, default=RESULTS / "together.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args()
    scratch, names = options.scratch, options.proteins
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    inputs = [options.structures / f"{name}.pdb" for name in names]
    prepared, alone, joint = scratch / "prepared", scratch / "alone", scratch / "together"
    for path in inputs:
        make_replica(path, prepared, 0)
    for tree in (alone, joint):
        if not tree.exists():
            shutil.copytree(prepared, tree)
    ledgers = Ledger(scratch / "alone.json", alone, False), Ledger(scratch / "together.json", joint, True)
    protocol = Protocol(interval=INTERVAL)
    for path in inputs:
        for replica in REPLICAS:
            make_replica(path, alone, options.duration, replica=replica, protocol=protocol, observe=ledgers[0].observe)
            ledgers[0].keep()
    failed = make_data_together(
        inputs,
        joint,
        options.duration,
        replicas=len(REPLICAS),
        protocol=protocol,
        platform="CPU",
        observe=ledgers[1].observe,
    )
    ledgers[1].keep()
    if failed:
        raise SystemExit(f"failed: {failed}")
    pairs = {name: (figures_of(alone, name, ledgers[0]), figures_of(joint, name, ledgers[1])) for name in names}
    results = {
        "duration_ps": options.duration,
        "openmm": mm.version.version,
        "forces": largest_force_difference(alone, names),
        "proteins": {name: compared(*pair) for name, pair in pairs.items()},
        "runs": {name: {"alone": pair[0], "together": pair[1]} for name, pair in pairs.items()},
        "killed": killed(options.structures, prepared, scratch, names),
    }
    results["failing"] = failing(options.structures, scratch, names)
    write_json(options.json, results)
    write_block(options.page, "together", table(results))
    print(table(results))


if __name__ == "__main__":
    main()
