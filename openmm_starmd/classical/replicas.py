"""Replicas of classical MD in ATLAS layout, for training and comparison, restartable at any moment.

The protocol is amber14-all with OBC2 implicit solvent (no cutoff), LangevinMiddle at 300 K and 1/ps, 4 fs steps with
3 amu hydrogens and constrained bonds to hydrogen; heavy atoms are written every picosecond, superposed on the start.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import mdtraj
import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd.atoms.building import correct_hydrogens
from openmm_starmd.atoms.systems import obc2_system
from openmm_starmd.files.reading import read_structure, structure_name
from openmm_starmd.files.writing import replacing, write_text


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


def prepare_model(path: str | os.PathLike[str], protocol: Protocol) -> tuple[app.Modeller, mm.System]:
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

    Raises
    ------
    ValueError
        If the file cannot be read; see :func:`openmm_starmd.files.reading.read_structure`.
    """
    source = read_structure(path)
    forcefield = app.ForceField("amber14-all.xml")
    modeller = app.Modeller(source.topology, source.positions)
    if not any(atom.element is app.element.hydrogen for atom in modeller.topology.atoms()):
        modeller.addHydrogens(forcefield, pH=7.0)
        placed = np.array(modeller.positions.value_in_unit(unit.nanometer))
        # a hydrogen on the wrong side of its carbon makes a D-amino acid of the residue in the minimiser
        modeller = app.Modeller(modeller.topology, correct_hydrogens(modeller.topology, placed) * unit.nanometer)
    return modeller, obc2_system(modeller.topology, forcefield, protocol.hydrogen_mass)


def replica_seed(name: str, replica: int) -> int:
    """Random seed of a replica, from its name and number alone, so that a rerun starts alike."""
    digest = hashlib.sha256(f"{name}/R{replica}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % (2**31 - 1) + 1


@dataclass(frozen=True)
class _Files:
    """Files of one replica; all of a protein's share a folder and an all-atom model."""

    folder: Path
    name: str
    replica: int

    @property
    def model(self) -> Path:
        return self.folder / f"{self.name}.model.pdb"

    @property
    def start(self) -> Path:
        return self.folder / f"{self.name}.pdb"

    @property
    def description(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def trajectory(self) -> Path:
        return self.folder / f"{self.name}_prod_R{self.replica}_fit.xtc"

    @property
    def state(self) -> Path:
        return self.folder / f"{self.name}_prod_R{self.replica}.state.xml"


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
    """Run one replica of one protein to `duration`, resuming what an earlier run left.

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
        Name of the folder; the file's, without its ending, by default.
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
    name = name or structure_name(path)
    files = _Files(Path(output) / name, name, replica)
    files.folder.mkdir(parents=True, exist_ok=True)
    seed, total = replica_seed(name, replica), round(duration / protocol.interval)

    minimized = files.model.exists()
    if minimized:
        # one all-atom model for every replica: addHydrogens is unseeded and may choose other tautomers
        model = read_structure(files.model)
        topology, positions = model.topology, model.positions
        system = obc2_system(topology, app.ForceField("amber14-all.xml"), protocol.hydrogen_mass)
    else:
        modeller, system = prepare_model(path, protocol)
        topology, positions = modeller.topology, modeller.positions
    context = _context(system, protocol, seed, platform, threads)
    context.setPositions(positions)
    if not minimized:
        mm.LocalEnergyMinimizer.minimize(context, maxIterations=protocol.minimization)
        positions = context.getState(positions=True).getPositions()
        with replacing(files.model) as temporary, temporary.open("w") as file:
            app.PDBFile.writeFile(topology, positions, file, keepIds=True)

    heavy = np.array([a.index for a in topology.atoms() if a.element is not app.element.hydrogen])
    start = mdtraj.Trajectory(_nanometers(positions)[None], mdtraj.Topology.from_openmm(topology)).atom_slice(heavy)
    start.unitcell_vectors = None
    if not files.start.exists():
        with replacing(files.start) as temporary:
            start.save_pdb(str(temporary))
        write_text(files.description, json.dumps({"source": str(path), "protocol": asdict(protocol)}, indent=1))
    if total:
        _produce(context, start, heavy, files, protocol, seed, total, chunk, progress)
    return files.trajectory


def _context(system: mm.System, protocol: Protocol, seed: int, platform: str | None, threads: int) -> mm.Context:
    integrator = mm.LangevinMiddleIntegrator(
        protocol.temperature * unit.kelvin, protocol.friction / unit.picosecond, protocol.timestep * unit.picosecond
    )
    integrator.setRandomNumberSeed(seed)
    names = {mm.Platform.getPlatform(i).getName() for i in range(mm.Platform.getNumPlatforms())}
    if platform is None and "CPU" not in names:
        return mm.Context(system, integrator)
    chosen = mm.Platform.getPlatformByName(platform or "CPU")
    options = {"Threads": str(threads)} if chosen.getName() == "CPU" else {}
    return mm.Context(system, integrator, chosen, options)


def _produce(
    context: mm.Context,
    start: mdtraj.Trajectory,
    heavy: np.ndarray,
    files: _Files,
    protocol: Protocol,
    seed: int,
    total: int,
    chunk: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Draw frames until there are `total`, saved chunk by chunk."""
    integrator = context.getIntegrator()
    frames = _resumed(context, start, files, protocol, seed)
    alphas = start.topology.select("name CA")
    while len(frames) < total:
        for _ in range(min(chunk, total - len(frames))):
            integrator.step(protocol.steps_per_frame)
            frames.append(_nanometers(context.getState(positions=True).getPositions())[heavy])
        times = protocol.interval * np.arange(1, len(frames) + 1)
        trajectory = mdtraj.Trajectory(np.array(frames), start.topology, time=times)
        trajectory.superpose(start, atom_indices=alphas)
        with replacing(files.trajectory) as temporary:
            trajectory.save_xtc(str(temporary))
        state = context.getState(positions=True, velocities=True, parameters=True)
        write_text(files.state, mm.XmlSerializer.serialize(state))
        if progress is not None:
            progress(len(frames), total)


def _resumed(
    context: mm.Context, start: mdtraj.Trajectory, files: _Files, protocol: Protocol, seed: int
) -> list[np.ndarray]:
    """Frames on disk with the Context at the last of them, or none with the Context equilibrated."""
    integrator = context.getIntegrator()
    if files.state.exists() and files.trajectory.exists():
        state = mm.XmlSerializer.deserialize(files.state.read_text())
        done = round(state.getTime().value_in_unit(unit.picosecond) / protocol.interval)
        # a stochastic integrator that is restarted would otherwise repeat the noise of its first steps; OpenMM reads
        # the seed when a Context is made, and no more
        integrator.setRandomNumberSeed((seed + done) % (2**31 - 1) + 1)
        context.reinitialize()
        context.setState(state)
        # the trajectory is renamed before the state, so it may hold one chunk more than the state knows of
        return list(mdtraj.load(str(files.trajectory), top=start.topology).xyz[:done])
    context.setVelocitiesToTemperature(protocol.temperature, seed)
    integrator.step(round(protocol.equilibration / protocol.timestep))
    context.setTime(0.0)
    context.setStepCount(0)
    return []


def _nanometers(positions: unit.Quantity) -> np.ndarray:
    """Positions as an array [atoms, 3] in nanometres."""
    return np.array(positions.value_in_unit(unit.nanometer))
