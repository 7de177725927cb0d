"""Make classical MD data with OpenMM, in ATLAS layout, restartable at any moment.

The one module of :mod:`openmm_starmd.data` that imports OpenMM. The protocol is amber14-all with OBC2
implicit solvent (no cutoff), LangevinMiddle at 300 K and 1/ps, 4 fs steps with 3 amu hydrogens and
constrained bonds to hydrogen; heavy atoms are written every picosecond, superposed on the start.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from openmm_starmd.atoms.building import righted
from openmm_starmd.atoms.systems import obc2_system


@dataclass(frozen=True)
class Protocol:
    """Settings of the data-making MD.

    Attributes
    ----------
    temperature : float
        Kelvin.
    friction : float
        1/ps.
    timestep : float
        Picoseconds.
    hydrogen_mass : float
        Atomic mass units.
    interval : float
        Picoseconds between saved frames; a whole number of time steps.
    equilibration : float
        Picoseconds discarded after minimisation.
    minimization : int
        Upper bound on the iterations of the energy minimiser.
    """

    temperature: float = 300.0
    friction: float = 1.0
    timestep: float = 0.004
    hydrogen_mass: float = 3.0
    interval: float = 1.0
    equilibration: float = 6.0
    minimization: int = 300

    @property
    def steps_per_frame(self) -> int:
        """Time steps between saved frames."""
        steps = round(self.interval / self.timestep)
        if steps < 1 or abs(steps * self.timestep - self.interval) > 1e-9:
            raise ValueError(f"interval {self.interval} ps is not a whole number of {self.timestep} ps time steps")
        return steps


def prepare_model(path: str | os.PathLike[str], protocol: Protocol) -> tuple[app.Modeller, openmm.System]:
    """Build the all-atom model of a protein and its System.

    Parameters
    ----------
    path : path
        PDB or mmCIF file of a complete protein; hydrogens are added at pH 7 where there are none.
    protocol : Protocol
        Supplies the hydrogen mass.

    Returns
    -------
    (openmm.app.Modeller, openmm.System)
        Topology and positions with hydrogens, and the amber14 + OBC2 System.
    """
    source = app.PDBxFile(str(path)) if str(path).endswith((".cif", ".pdbx")) else app.PDBFile(str(path))
    forcefield = app.ForceField("amber14-all.xml")
    modeller = app.Modeller(source.topology, source.positions)
    if not any(atom.element is app.element.hydrogen for atom in modeller.topology.atoms()):
        modeller.addHydrogens(forcefield, pH=7.0)
        placed = np.array(modeller.positions.value_in_unit(unit.nanometer))
        # a hydrogen on the wrong side of its carbon makes a D-amino acid of the residue in the minimiser
        modeller = app.Modeller(modeller.topology, righted(modeller.topology, placed) * unit.nanometer)
    return modeller, obc2_system(modeller.topology, forcefield, protocol.hydrogen_mass)


def replica_seed(name: str, replica: int) -> int:
    """Random seed of a replica, from its name and number alone, so that a rerun starts alike."""
    digest = hashlib.sha256(f"{name}/R{replica}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % (2**31 - 1) + 1


def _write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Write to a temporary name beside `path` and rename it, so that a kill leaves the old file whole."""
    # mdtraj and OpenMM choose the format by the ending, hence the prefix.
    temporary = path.with_name(f".partial-{path.name}")
    write(str(temporary))
    os.replace(temporary, path)


def make_replica(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    duration: float,
    *,
    replica: int = 1,
    name: str | None = None,
    protocol: Protocol | None = None,
    chunk: int = 10,
    platform: str | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Run one replica of one protein to `duration`, going on from whatever an earlier run left.

    Writes ``output/NAME/NAME.pdb`` (the minimised start, heavy atoms), ``NAME_prod_R{replica}_fit.xtc`` and,
    for restarts, ``NAME_prod_R{replica}.state.xml``. After each `chunk` frames the trajectory and then the state
    are replaced atomically, so a kill costs at most one chunk and a longer `duration` extends the run.

    Parameters
    ----------
    path : path
        Protein to simulate; see :func:`prepare_model`.
    output : path
        Root of the ATLAS-style tree.
    duration : float
        Picoseconds of production in total; 0 only prepares and minimises the model.
    replica : int
        Number in the file name; decides the random seed.
    name : str, optional
        Name of the folder; the file's stem by default.
    protocol : Protocol, optional
        Settings of the MD.
    chunk : int
        Frames between saves.
    platform : str, optional
        OpenMM platform; the fastest by default.
    threads : int
        Threads of the CPU platform.
    progress : callable, optional
        Called with (frames done, frames in all) after each chunk.

    Returns
    -------
    Path
        The trajectory.
    """
    protocol = protocol or Protocol()
    name = name or Path(path).stem
    folder = Path(output) / name
    folder.mkdir(parents=True, exist_ok=True)
    trajectory_path = folder / f"{name}_prod_R{replica}_fit.xtc"
    state_path = folder / f"{name}_prod_R{replica}.state.xml"
    model_path, start_path = folder / f"{name}.model.pdb", folder / f"{name}.pdb"
    total = round(duration / protocol.interval)

    if model_path.exists():
        # One all-atom model for every replica: addHydrogens is unseeded and may choose other tautomers.
        model = app.PDBFile(str(model_path))
        topology, positions = model.topology, model.positions
        system = obc2_system(topology, app.ForceField("amber14-all.xml"), protocol.hydrogen_mass)
    else:
        modeller, system = prepare_model(path, protocol)
        topology, positions = modeller.topology, modeller.positions

    integrator = openmm.LangevinMiddleIntegrator(
        protocol.temperature * unit.kelvin, protocol.friction / unit.picosecond, protocol.timestep * unit.picosecond
    )
    integrator.setRandomNumberSeed(replica_seed(name, replica))
    options: tuple = ()
    if platform is not None or "CPU" in {
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    }:
        chosen = openmm.Platform.getPlatformByName(platform or "CPU")
        options = (chosen, {"Threads": str(threads)}) if chosen.getName() == "CPU" else (chosen,)
    context = openmm.Context(system, integrator, *options)
    context.setPositions(positions)

    if not model_path.exists():
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=protocol.minimization)
        positions = context.getState(positions=True).getPositions()
        _write_atomically(model_path, lambda p: _write_pdb(p, topology, positions))
    heavy = np.array([a.index for a in topology.atoms() if a.element is not app.element.hydrogen])
    full = mdtraj.Topology.from_openmm(topology)
    start = mdtraj.Trajectory(_nanometers(positions)[None], full).atom_slice(heavy)
    start.unitcell_vectors = None
    if not start_path.exists():
        _write_atomically(start_path, start.save_pdb)
        _write_atomically(
            folder / f"{name}.json",
            lambda p: Path(p).write_text(json.dumps({"source": str(path), "protocol": asdict(protocol)}, indent=1)),
        )

    if total == 0:
        return trajectory_path

    frames: list[np.ndarray] = []
    if state_path.exists() and trajectory_path.exists():
        context.setState(openmm.XmlSerializer.deserialize(state_path.read_text()))
        done = round(context.getState().getTime().value_in_unit(unit.picosecond) / protocol.interval)
        # The trajectory is renamed before the state, so it may hold one chunk more than the state knows of.
        frames = list(mdtraj.load(str(trajectory_path), top=start.topology).xyz[:done])
        # A restarted stochastic integrator would otherwise repeat the noise of its first steps.
        integrator.setRandomNumberSeed((replica_seed(name, replica) + done) % (2**31 - 1) + 1)
    else:
        context.setVelocitiesToTemperature(protocol.temperature, replica_seed(name, replica))
        integrator.step(round(protocol.equilibration / protocol.timestep))
        context.setTime(0.0)
        context.setStepCount(0)

    alphas = start.topology.select("name CA")
    while len(frames) < total:
        for _ in range(min(chunk, total - len(frames))):
            integrator.step(protocol.steps_per_frame)
            frames.append(_nanometers(context.getState(positions=True).getPositions())[heavy])
        times = protocol.interval * np.arange(1, len(frames) + 1)
        trajectory = mdtraj.Trajectory(np.array(frames), start.topology, time=times)
        trajectory.superpose(start, atom_indices=alphas)
        _write_atomically(trajectory_path, trajectory.save_xtc)
        state = context.getState(positions=True, velocities=True, parameters=True)
        text = openmm.XmlSerializer.serialize(state)
        _write_atomically(state_path, partial(_write_text, text=text))
        if progress is not None:
            progress(len(frames), total)
    return trajectory_path


def _nanometers(positions: unit.Quantity) -> np.ndarray:
    """Positions as an array [atoms, 3] in nanometres."""
    return np.array(positions.value_in_unit(unit.nanometer))


def _write_text(path: str, text: str) -> None:
    Path(path).write_text(text)


def _write_pdb(path: str, topology: app.Topology, positions: unit.Quantity) -> None:
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology, positions, file, keepIds=True)
