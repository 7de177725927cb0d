"""Replicas of classical MD in ATLAS layout, for training and comparison, restartable at any moment.

The protocol is amber14-all with OBC2 implicit solvent (no cutoff), LangevinMiddle at 300 K and 1/ps, 4 fs steps with
3 amu hydrogens and constrained bonds to hydrogen; heavy atoms are written every picosecond, superposed on the start.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd.atoms.building import correct_hydrogens
from openmm_starmd.atoms.systems import obc2_system
from openmm_starmd.classical.recording import FINE, Recorder, RunFiles, check_folder, describe_folder
from openmm_starmd.files.reading import read_structure, structure_name
from openmm_starmd.files.writing import lock, replacing, sweep

Observer = Callable[[str, float, np.ndarray, np.ndarray], None]
"""Called with label, ps, positions [atoms, 3] (nm) and velocities [atoms, 3] (nm/ps) of a run at each whole frame."""
DOING = "making MD in"
"""What the holder of a folder's lock does, for the error."""
_FORCEFIELD = "amber14-all.xml"


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
    cutoff : float, optional
        nm, of nonbonded forces and implicit solvent; None is none. Many proteins in one Context need one.
    fine : float
        Picoseconds at the start of each run of which frames `fine_interval` apart are saved too, in a tree of their
        own; a whole number of intervals.
    fine_interval : float
        Picoseconds; the interval is a whole number of these.
    """

    temperature: float = 300.0
    friction: float = 1.0
    timestep: float = 0.004
    hydrogen_mass: float = 3.0
    interval: float = 1.0
    equilibration: float = 6.0
    minimization: int = 300
    cutoff: float | None = None
    fine: float = 0.0
    fine_interval: float = 1.0

    def check(self) -> None:
        """Raise a ValueError that says what does not fit together."""
        _ = self.steps_per_frame
        if self.cutoff is not None and self.cutoff <= 0:
            raise ValueError(f"cutoff is {self.cutoff} nm; it must be positive")
        if self.fine:
            _whole(self.fine_interval, self.timestep, "fine_interval", "time steps")
            _whole(self.interval, self.fine_interval, "interval", "fine intervals")
            _whole(self.fine, self.interval, "fine", "intervals")

    @property
    def steps_per_frame(self) -> int:
        """Steps of the integrator between saved frames."""
        return _whole(self.interval, self.timestep, "interval", "time steps")

    def parts(self, frame: int) -> int:
        """In how many equal parts the frame after `frame` whole ones is drawn: more than one among the first."""
        return round(self.interval / self.fine_interval) if frame * self.interval < self.fine else 1

    def fine_frames(self, frame: int) -> int:
        """Frames at the fine interval when there are `frame` whole ones."""
        return round(min(frame * self.interval, self.fine) / self.fine_interval)


def _whole(value: float, part: float, name: str, parts: str) -> int:
    """How often `part` fits into `value`, both in ps; a ValueError if not a whole number of times."""
    count = round(value / part)
    if count < 1 or abs(count * part - value) > 1e-9:
        raise ValueError(f"{name} {value} ps is not a whole number of {part} ps {parts}")
    return count


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
    forcefield = _forcefield()
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


@functools.cache
def _forcefield() -> app.ForceField:
    """The protocol's force field; reading its files takes a second."""
    return app.ForceField(_FORCEFIELD)


def make_system(topology: app.Topology, protocol: Protocol) -> mm.System:
    """amber14 + OBC2 System of an all-atom topology under a protocol."""
    return obc2_system(topology, _forcefield(), protocol.hydrogen_mass, protocol.cutoff)


def make_integrator(protocol: Protocol, seed: int) -> mm.Integrator:
    """Integrator of a protocol, whose random numbers start from `seed`."""
    bath = protocol.temperature * unit.kelvin, protocol.friction / unit.picosecond, protocol.timestep * unit.picosecond
    integrator = mm.LangevinMiddleIntegrator(*bath)
    integrator.setRandomNumberSeed(seed)
    return integrator


@dataclass(frozen=True)
class PreparedModel:
    """A protein ready for MD.

    Attributes
    ----------
    files : RunFiles
        Of replica 1.
    topology : openmm.app.Topology
        All atoms.
    positions : np.ndarray [atoms, 3]
        nm, minimised.
    """

    files: RunFiles
    topology: app.Topology
    positions: np.ndarray

    def recorder(self, replica: int, protocol: Protocol) -> Recorder:
        """A recorder of one replica, whose start is that on disk."""
        heavy = np.array([a.index for a in self.topology.atoms() if a.element is not app.element.hydrogen])
        start = _heavy_start(self.topology, self.positions)
        files = RunFiles(self.files.folder, self.files.name, replica)
        return Recorder(files, protocol, start, heavy)


def prepare(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    protocol: Protocol,
    *,
    name: str | None = None,
    platform: str | None = None,
    threads: int = 1,
    notes: Mapping[str, Any] | None = None,
) -> PreparedModel:
    """Make a protein's folder with model, start and description, or take what is there; hold the folder's lock.

    Parameters
    ----------
    path, output, protocol, name, platform, threads
        As :func:`make_replica` takes them.
    notes : mapping, optional
        More for the description.

    Returns
    -------
    PreparedModel

    Raises
    ------
    ValueError
        If the input cannot be read or is not what the folder was made from, or the folder was begun under another
        protocol.
    """
    protocol.check()
    name = name or structure_name(path)
    if protocol.fine and name == FINE:
        raise ValueError(f"a protein named {FINE} would take the place of the tree of fine frames: rename {path}")
    files = RunFiles(Path(output) / name, name, 1)
    described = check_folder(files, path, protocol)
    if files.model.exists():
        # one all-atom model for every replica: addHydrogens is unseeded and may choose other tautomers
        model = read_structure(files.model)
        topology, positions = model.topology, _nanometers(model.positions)
    else:
        modeller, _ = prepare_model(path, protocol)
        topology = modeller.topology
        context = make_context(make_system(topology, protocol), make_integrator(protocol, 1), platform, threads)
        context.setPositions(modeller.positions)
        mm.LocalEnergyMinimizer.minimize(context, maxIterations=protocol.minimization)
        positions = _nanometers(context.getState(positions=True).getPositions())
        with replacing(files.model) as temporary, temporary.open("w") as file:
            app.PDBFile.writeFile(topology, positions * unit.nanometer, file, keepIds=True)
    if not files.start.exists():
        with replacing(files.start) as temporary:
            _heavy_start(topology, positions).save_pdb(str(temporary))
    describe_folder(files, {**described, **(notes or {})})
    return PreparedModel(files, topology, positions)


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
    observe: Observer | None = None,
) -> Path:
    """Run one replica of one protein to `duration`, resuming what an earlier run left.

    Writes ``output/NAME/NAME.pdb`` (the minimised start, heavy atoms), ``NAME.model.pdb`` (all atoms; used as it is
    where it is there already), ``NAME_prod_R{replica}_fit.xtc`` and, for restarts,
    ``NAME_prod_R{replica}.state.xml.gz``. After each `chunk` frames these are appended to the trajectory and then the
    state is replaced, so a kill costs at most one chunk and a longer `duration` extends the run.

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
        OpenMM platform; the CPU by default.
    threads : int
        Threads of the CPU platform.
    progress : callable, optional
        Called with (frames done, frames in all) after each chunk.
    observe : callable, optional
        See :data:`Observer`.

    Returns
    -------
    Path
        The trajectory.

    Raises
    ------
    ValueError
        If another process makes MD in the folder, and as :func:`prepare` does.
    """
    folder = Path(output) / (name or structure_name(path))
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, DOING):
        sweep(folder)
        sweep(RunFiles(folder, folder.name, replica).fine.folder)
        return run_replica(path, output, duration, replica, name, protocol, chunk, platform, threads, progress, observe)


def run_replica(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    duration: float,
    replica: int = 1,
    name: str | None = None,
    protocol: Protocol | None = None,
    chunk: int = 10,
    platform: str | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    observe: Observer | None = None,
) -> Path:
    """:func:`make_replica` for a caller that holds the folder's lock."""
    protocol = protocol or Protocol()
    model = prepare(path, output, protocol, name=name, platform=platform, threads=threads)
    recorder, total = model.recorder(replica, protocol), round(duration / protocol.interval)
    if total:
        seed = replica_seed(model.files.name, replica)
        state = recorder.resume(len(model.positions))
        # a stochastic integrator that is restarted would otherwise repeat the noise of its first steps
        noise = seed if state is None else (seed + recorder.frames) % (2**31 - 1) + 1
        integrator = make_integrator(protocol, noise)
        context = make_context(make_system(model.topology, protocol), integrator, platform, threads)
        if state is not None:
            context.setPositions(state.positions)
            context.setVelocities(state.velocities)
        else:
            context.setPositions(model.positions)
            context.setVelocitiesToTemperature(protocol.temperature, seed)
            integrator.step(round(protocol.equilibration / protocol.timestep))
        _produce(context, recorder, total, chunk, progress, observe, saved=state is not None)
    return recorder.files.trajectory


def make_context(system: mm.System, integrator: mm.Integrator, platform: str | None, threads: int) -> mm.Context:
    """A Context on the CPU, or on the platform named: in mixed precision, where there is such a choice.

    Raises
    ------
    ValueError
        If OpenMM has no such platform here.
    """
    names = [mm.Platform.getPlatform(i).getName() for i in range(mm.Platform.getNumPlatforms())]
    if platform is None and "CPU" not in names:
        return mm.Context(system, integrator)
    if platform is not None and platform not in names:
        raise ValueError(f"platform is {platform!r}; OpenMM has {', '.join(names)} here")
    chosen = mm.Platform.getPlatformByName(platform or "CPU")
    options = {"Threads": str(threads)} if chosen.getName() == "CPU" else {}
    if "Precision" in chosen.getPropertyNames():
        options["Precision"] = "mixed"
    return mm.Context(system, integrator, chosen, options)


def _produce(
    context: mm.Context,
    recorder: Recorder,
    total: int,
    chunk: int,
    progress: Callable[[int, int], None] | None,
    observe: Observer | None,
    *,
    saved: bool,
) -> None:
    """Draw frames until there are `total`, saved chunk by chunk."""
    integrator, protocol = context.getIntegrator(), recorder.protocol
    label = f"{recorder.files.name} R{recorder.files.replica}"
    if not saved:
        # a trajectory is then never without a state, so that one that is may be refused
        recorder.save(*positions_and_velocities(context))
    while recorder.frames < total:
        for _ in range(min(chunk, total - recorder.frames)):
            parts = protocol.parts(recorder.frames)
            for part in range(1, parts + 1):
                integrator.step(protocol.steps_per_frame // parts)
                recorder.take(_nanometers(context.getState(positions=True).getPositions(asNumpy=True)), part == parts)
            if observe is not None:
                observe(label, recorder.time, *positions_and_velocities(context))
        recorder.save(*positions_and_velocities(context))
        if progress is not None:
            progress(recorder.frames, total)


def positions_and_velocities(context: mm.Context) -> tuple[np.ndarray, np.ndarray]:
    """Arrays [atoms, 3] in nm and nm/ps."""
    state = context.getState(positions=True, velocities=True)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
    return _nanometers(state.getPositions(asNumpy=True)), np.array(velocities)


def _heavy_start(topology: app.Topology, positions: np.ndarray) -> mdtraj.Trajectory:
    heavy = [a.index for a in topology.atoms() if a.element is not app.element.hydrogen]
    return mdtraj.Trajectory(positions[None], mdtraj.Topology.from_openmm(topology)).atom_slice(heavy)


def _nanometers(positions: unit.Quantity) -> np.ndarray:
    """Positions as an array [atoms, 3] in nanometres."""
    return np.array(positions.value_in_unit(unit.nanometer))
