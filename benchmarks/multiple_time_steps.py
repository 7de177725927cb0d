"""Multiple time steps beside plain MD: what evaluating the implicit solvent every second step changes.

    python -m benchmarks.multiple_time_steps --structures ../shared/data/structures --scratch /tmp/mts

Plain MD (LangevinMiddle, 4 fs) twice, with two seeds, and MTSLangevinIntegrator (BAOAB-RESPA; GBSAOBCForce every 8 fs,
all else every 4 fs) of three proteins of the training pool, as long for each run of a protein: mean energies by term
and temperature with errors from blocks, RMSF profiles, displacement against lag, autocorrelation of the radius of
gyration, speed. What two plain runs differ by is the yardstick. A run is kept in --scratch, so that the command may be
repeated.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm as mm
from openmm import app, unit

from benchmarks.lib.paths import RESULTS, ROOT
from benchmarks.lib.results_page import write_block, write_json
from openmm_starmd.analysis.flexibility import correlation, rmsd_against_lag, rmsf
from openmm_starmd.atoms.systems import obc2_system
from openmm_starmd.classical.replicas import Protocol, prepare_model

PROTEINS = ("2beg_A:80", "1vii_A:40", "1t2y_A:40")  # and the ps of each run
# integrator, seed, and share of the length: the last is there for its temperature only
RUNS = {"plain": ("middle", 1, 1), "plain again": ("middle", 2, 1), "MTS": ("mts", 3, 1), "BAOAB": ("baoab", 4, 0.25)}
TERMS = ("bonds", "angles", "torsions", "nonbonded", "solvent")
INTERVAL, BLOCKS, LAGS = 0.4, 6, (1.0, 2.0, 5.0, 10.0)  # ps between samples; blocks a run; ps


def grouped(topology: app.Topology, groups: dict[str, int]) -> mm.System:
    """The System of ``make-data`` with a force group for each kind of force."""
    system = obc2_system(topology, app.ForceField("amber14-all.xml"), Protocol().hydrogen_mass)
    for force in system.getForces():
        force.setForceGroup(groups.get(type(force).__name__, 0))
    return system


def integrator(kind: str, seed: int) -> mm.Integrator:
    protocol = Protocol()
    bath, step = (protocol.temperature * unit.kelvin, protocol.friction / unit.picosecond), protocol.timestep
    made: mm.Integrator
    if kind == "mts":
        made = mm.MTSLangevinIntegrator(*bath, 2 * step * unit.picosecond, [(1, 1), (0, 2)])
    elif kind == "baoab":
        made = mm.MTSLangevinIntegrator(*bath, step * unit.picosecond, [(0, 1)])
    else:
        made = mm.LangevinMiddleIntegrator(*bath, step * unit.picosecond)
    made.setRandomNumberSeed(seed)
    return made


def context(system: mm.System, integrator_: mm.Integrator) -> mm.Context:
    return mm.Context(system, integrator_, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})


def run(model: app.PDBFile, kind: str, seed: int, duration: float) -> dict[str, np.ndarray]:
    """Energies by term, temperatures and positions of one run, every INTERVAL ps, after 6 ps of equilibration."""
    protocol = Protocol()
    kinds = ("HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "NonbondedForce", "GBSAOBCForce")
    judge = context(grouped(model.topology, dict(zip(kinds, range(5), strict=True))), mm.VerletIntegrator(0.001))
    system = grouped(model.topology, {"GBSAOBCForce": 1} if kind == "mts" else {})
    moving = integrator(kind, seed)
    simulated = context(system, moving)
    simulated.setPositions(model.positions)
    simulated.setVelocitiesToTemperature(protocol.temperature, seed)
    steps = round(INTERVAL / moving.getStepSize().value_in_unit(unit.picosecond))
    moving.step(round(protocol.equilibration / INTERVAL) * steps)
    # the three motions that a CMMotionRemover takes away do not count
    freedom = 3 * system.getNumParticles() - system.getNumConstraints() - 3
    series: dict[str, list[Any]] = {name: [] for name in (*TERMS, "temperature", "positions")}
    spent = 0.0
    for _ in range(round(duration / INTERVAL)):
        began = time.process_time()
        moving.step(steps)
        state = simulated.getState(positions=True, energy=True)
        spent += time.process_time() - began
        judge.setPositions(state.getPositions())
        for group, term in enumerate(TERMS):
            energy = judge.getState(energy=True, groups={group}).getPotentialEnergy()
            series[term].append(energy.value_in_unit(unit.kilojoule_per_mole))
        kinetic = state.getKineticEnergy() / (0.5 * freedom * unit.MOLAR_GAS_CONSTANT_R)
        series["temperature"].append(kinetic.value_in_unit(unit.kelvin))
        series["positions"].append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer).astype(np.float32))
    return {name: np.array(values) for name, values in series.items()} | {"seconds": np.array(spent)}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean, and its standard error from blocks."""
    blocks = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    return float(values.mean()), float(blocks.std(ddof=1) / np.sqrt(BLOCKS))


def autocorrelation(values: np.ndarray, lags: list[int]) -> list[float]:
    centred = values - values.mean()
    return [float((centred[:-lag] * centred[lag:]).mean() / centred.var()) for lag in lags]


def measured(series: dict[str, np.ndarray], topology: app.Topology, duration: float) -> dict[str, Any]:
    """Figures of one run."""
    alphas = [atom.index for atom in topology.atoms() if atom.name == "CA"]
    frames = series["positions"][:, alphas]
    lags = [lag for lag in (round(lag / INTERVAL) for lag in LAGS) if lag < len(frames)]
    trajectory = mdtraj.Trajectory(series["positions"], mdtraj.Topology.from_openmm(topology))
    energies = {term: series[term] for term in TERMS}
    energies["potential energy"] = sum(energies.values())
    return {
        "means": {name: mean_and_error(v) for name, v in {**energies, "temperature": series["temperature"]}.items()},
        "rmsf": np.asarray(rmsf(frames)).tolist(),
        "displacement": np.asarray(rmsd_against_lag(frames, lags)).tolist(),
        "gyration_autocorrelation": autocorrelation(mdtraj.compute_rg(trajectory), lags),
        "ns_per_cpu_day": duration / 1000 / float(series["seconds"]) * 86400,
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How far the means of `other` are from those of `one`, in percent and in standard errors."""
    means = {}
    for name, (mean, error) in one["means"].items():
        theirs, their_error = other["means"][name]
        means[name] = {
            "percent": 100 * (theirs - mean) / abs(mean),
            "in_errors": (theirs - mean) / max(np.hypot(error, their_error), 1e-12),
        }
    return means


def compared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far `other` is from `one`, a run as long: means, RMSF, displacements, speed."""
    profiles = np.array(one["rmsf"]), np.array(other["rmsf"])
    return {
        "means": differences(one, other),
        "rmsf_r": float(correlation(*profiles)),
        "rmsf_ratio": float(np.sqrt((profiles[1] ** 2).mean() / (profiles[0] ** 2).mean())),
        "displacement_ratio": (np.array(other["displacement"]) / np.array(one["displacement"])).tolist(),
        "gyration_autocorrelation_difference": (
            np.array(other["gyration_autocorrelation"]) - np.array(one["gyration_autocorrelation"])
        ).tolist(),
        "speed": other["ns_per_cpu_day"] / one["ns_per_cpu_day"],
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        "MD with multiple time steps (implicit solvent every 8 fs, all else every 4 fs) beside plain MD, and a second "
        "plain run as the yardstick. Energies and temperature: difference of the means in percent of the mean, in "
        f"brackets in standard errors ({BLOCKS} blocks). Displacement: ratio of RMSD over 1, 2, 5 and 10 ps. The "
        "temperature of MTS is held against that of the same integrator (BAOAB) with one time step, whose velocities "
        "read as low.",
        "",
        f"| protein | ps | against plain | {' | '.join(TERMS)} | temperature | RMSF r | RMSF ratio | displacement "
        "| speed |",
        "|" + "---|" * (8 + len(TERMS)),
    ]
    for name, result in results.items():
        for run_ in ("plain again", "MTS"):
            figures = result["against plain"][run_]
            means = [
                f"{figures['means'][term]['percent']:+.2f} ({figures['means'][term]['in_errors']:+.1f})"
                for term in (*TERMS, "temperature")
            ]
            displacement = " ".join(f"{ratio:.2f}" for ratio in figures["displacement_ratio"])
            rest = f"{figures['rmsf_r']:.2f} | {figures['rmsf_ratio']:.2f} | {displacement} | {figures['speed']:.2f}"
            lines.append(f"| {name} | {result['ps']:g} | {run_} | {' | '.join(means)} | {rest} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=ROOT.parent / "shared" / "data" / "structures")
    parser.add_argument("--proteins", nargs="+", default=PROTEINS, metavar="NAME:PS", help="and ps of each run")
    parser.add_argument("--scratch", type=Path, required=True, help="folder where runs are kept")
    parser.add_argument("--json", type=Path, default=RESULTS / "multiple_time_steps.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name, duration in ((one.rpartition(":")[0], float(one.rpartition(":")[2])) for one in options.proteins):
        model_file = options.scratch / f"{name}.model.pdb"
        if not model_file.exists():
            model, system = prepare_model(options.structures / f"{name}.pdb", Protocol())
            minimised = context(system, mm.VerletIntegrator(0.001))
            minimised.setPositions(model.positions)
            mm.LocalEnergyMinimizer.minimize(minimised, maxIterations=300)
            with model_file.open("w") as file:
                app.PDBFile.writeFile(model.topology, minimised.getState(positions=True).getPositions(), file)
        model = app.PDBFile(str(model_file))
        figures = {}
        for label, (kind, seed, share) in RUNS.items():
            kept = options.scratch / f"{name} {label} {duration:g}.npz"
            if not kept.exists():
                np.savez(kept, **run(model, kind, seed, share * duration))
            figures[label] = measured(dict(np.load(kept)), model.topology, share * duration)
            print(name, label, f"{figures[label]['ns_per_cpu_day']:.2f} ns a CPU day", flush=True)
        beside = {label: compared(figures["plain"], figures[label]) for label in ("plain again", "MTS")}
        # BAOAB's velocities read low where LangevinMiddle's do not, with one time step as with two
        beside["MTS"]["means"]["temperature"] = differences(figures["BAOAB"], figures["MTS"])["temperature"]
        results[name] = {"ps": duration, "runs": figures, "against plain": beside}
        content = {"lags_ps": LAGS, "blocks": BLOCKS, "openmm": mm.version.version, "proteins": results}
        write_json(options.json, content)
    write_block(options.page, "multiple-time-steps", table(results))
    print(table(results))


if __name__ == "__main__":
    main()
