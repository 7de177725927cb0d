"""What MD leaves on disk: frames in ATLAS layout and a state beside them, so that any kill costs little.

A save appends the new frames to the trajectory, then replaces the state, which tells how many frames there are. Frames
that no state knows of are cut off when the run goes on.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd.files.cutting import truncate
from openmm_starmd.files.reading import read_structure
from openmm_starmd.files.writing import write_bytes, write_text

if TYPE_CHECKING:
    from openmm_starmd.classical.replicas import Protocol

FINE = "fine"
"""Name of the tree, beside the proteins' folders, of the first frames at short intervals."""
# settings that a run may be gone on with another value of: the model is there already
_FREE = ("minimization",)


@dataclass(frozen=True)
class RunFiles:
    """Files of one replica; all of a protein's share a folder and an all-atom model.

    Attributes
    ----------
    folder : Path
        ``output/NAME``.
    name : str
    replica : int
    """

    folder: Path
    name: str
    replica: int

    @property
    def model(self) -> Path:
        """All atoms, minimised; plain, or compressed where only that is there."""
        plain = self.folder / f"{self.name}.model.pdb"
        packed = plain.with_name(f"{plain.name}.gz")
        return packed if packed.exists() and not plain.exists() else plain

    @property
    def start(self) -> Path:
        """Heavy atoms of the model, which all frames are superposed on."""
        return self.folder / f"{self.name}.pdb"

    @property
    def description(self) -> Path:
        """Source and protocol, as JSON."""
        return self.folder / f"{self.name}.json"

    @property
    def trajectory(self) -> Path:
        """Heavy atoms, a frame every interval."""
        return self.folder / f"{self.name}_prod_R{self.replica}_fit.xtc"

    @property
    def fine(self) -> RunFiles:
        """The same in the tree of first frames at short intervals."""
        return RunFiles(self.folder.parent / FINE / self.name, self.name, self.replica)

    @property
    def state(self) -> Path:
        """Positions, velocities and time of the last whole frame."""
        return self.folder / f"{self.name}_prod_R{self.replica}.state.xml.gz"

    @property
    def plain_state(self) -> Path:
        """The same as earlier versions wrote it, or unpacked by hand."""
        return self.state.with_suffix("")

    @property
    def begun(self) -> bool:
        """Whether there are frames or states of any replica."""
        name = glob.escape(self.name)
        return any(any(self.folder.glob(f"{name}_prod_R*{end}")) for end in (".xtc", ".state.xml", ".state.xml.gz"))


@dataclass(frozen=True)
class RunState:
    """Where a replica stands.

    Attributes
    ----------
    time : float
        ps of production.
    positions, velocities : np.ndarray [atoms, 3], float64
        nm and nm/ps.
    """

    time: float
    positions: np.ndarray
    velocities: np.ndarray


def read_state(files: RunFiles) -> RunState | None:
    """The newest state of a replica, compressed or not; None if there is none.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    states = []
    for path in (files.state, files.plain_state):
        if not path.exists():
            continue
        try:
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
            state = mm.XmlSerializer.deserialize(text.decode())
            arrays = (state.getPositions(asNumpy=True), state.getVelocities(asNumpy=True))
            positions, velocities = (np.array(a.value_in_unit_system(unit.md_unit_system)) for a in arrays)
        except Exception as error:
            raise ValueError(f"{path} is no state that could be gone on from ({error}): restore it") from error
        states.append(RunState(state.getTime().value_in_unit(unit.picosecond), positions, velocities))
    return max(states, key=lambda one: one.time, default=None)


def write_state(files: RunFiles, state: RunState, steps: int) -> None:
    """Write a state as XML that ``openmm.XmlSerializer`` reads, compressed: a third of a MB becomes 30 kB.

    Parameters
    ----------
    files : RunFiles
    state : RunState
        Rounded to 1e-7 nm and 1e-6 nm/ps.
    steps : int
        Time steps so far.
    """
    lines = [
        '<?xml version="1.0" ?>',
        f'<State openmmVersion="{mm.Platform.getOpenMMVersion()}" stepCount="{steps}" time="{state.time!r}" '
        'type="State" version="1">',
        '<PeriodicBoxVectors><A x="2" y="0" z="0"/><B x="0" y="2" z="0"/><C x="0" y="0" z="2"/></PeriodicBoxVectors>',
        "<Parameters/>",
        "<Positions>",
        *(f'<Position x="{x}" y="{y}" z="{z}"/>' for x, y, z in np.round(state.positions, 7).tolist()),
        "</Positions>",
        "<Velocities>",
        *(f'<Velocity x="{x}" y="{y}" z="{z}"/>' for x, y, z in np.round(state.velocities, 6).tolist()),
        "</Velocities>",
        "</State>",
    ]
    # without the time of packing, so that equal states are equal files
    write_bytes(files.state, gzip.compress("\n".join(lines).encode(), mtime=0))
    files.plain_state.unlink(missing_ok=True)


def structure_digest(structure: app.PDBFile | app.PDBxFile) -> str:
    """Digest of atoms and positions, to 0.001 Å, whatever the format and compression of the file."""
    hashed = hashlib.sha256()
    for atom in structure.topology.atoms():
        hashed.update(f"{atom.residue.index} {atom.residue.name} {atom.name}\n".encode())
    positions = np.array(structure.positions.value_in_unit(unit.nanometer))
    hashed.update(np.rint(positions * 1e4).astype("<i4").tobytes())
    return hashed.hexdigest()[:32]


def check_folder(files: RunFiles, path: str | os.PathLike[str], protocol: Protocol) -> dict[str, Any]:
    """What a protein's folder should say of itself, once it is clear that it goes on as it was begun.

    Parameters
    ----------
    files : RunFiles
    path : path
        The input.
    protocol : Protocol
        What is asked for.

    Returns
    -------
    dict
        For :attr:`RunFiles.description`.

    Raises
    ------
    ValueError
        If the folder holds MD of another structure, or MD was begun there under other settings.
    """
    given = read_structure(path)
    digest = structure_digest(given)
    described: dict[str, Any] = {"source": str(path), "digest": digest, "protocol": asdict(protocol)}
    if not files.description.exists():
        return described
    stored = json.loads(files.description.read_text())
    if not _same_input(files, given, digest, stored.get("digest")):
        raise ValueError(
            f"{files.folder} holds MD of another structure of this name (made from {stored.get('source')}): rename "
            f"{path}, or choose another --output"
        )
    # what earlier versions did not know of was at its default
    was = {**asdict(type(protocol)()), **stored.get("protocol", {})}
    differing = [key for key, value in asdict(protocol).items() if key not in _FREE and was[key] != value]
    if differing and files.begun:
        there = ", ".join(f"{key} {was[key]}" for key in differing)
        asked = ", ".join(f"{key} {getattr(protocol, key)}" for key in differing)
        raise ValueError(
            f"{files.folder} was begun with {there}; asked for is {asked}: give the same settings to go on, or choose "
            "another --output"
        )
    for key in _FREE:
        described["protocol"][key] = was[key]
    return {**stored, **described, "source": stored.get("source", str(path)), "digest": stored.get("digest", digest)}


def _same_input(files: RunFiles, given: Any, digest: str, known: str | None) -> bool:
    """Whether the input is what the folder was made from, or the folder's own model or start."""
    if digest == known:
        return True
    if known is None:
        # written by an earlier version, which kept no digest
        theirs = read_structure(files.start if files.start.exists() else files.model)
        return [r.name for r in given.topology.residues()] == [r.name for r in theirs.topology.residues()]
    own = (path for path in (files.start, files.model) if path.exists())
    return any(structure_digest(read_structure(path)) == digest for path in own)


def describe_folder(files: RunFiles, described: dict[str, Any]) -> None:
    """Write :attr:`RunFiles.description`, if it would change."""
    text = json.dumps(described, indent=1)
    if not files.description.exists() or files.description.read_text() != text:
        write_text(files.description, text)


class Recorder:
    """Frames and state of one replica, on their way to the disk.

    Parameters
    ----------
    files : RunFiles
    protocol : Protocol
    start : mdtraj.Trajectory
        Heavy atoms; every frame is superposed on its CA atoms.
    heavy : np.ndarray [heavy atoms]
        Their places among all atoms.

    Attributes
    ----------
    frames : int
        Whole frames so far, those not yet on the disk included.
    """

    def __init__(self, files: RunFiles, protocol: Protocol, start: mdtraj.Trajectory, heavy: np.ndarray) -> None:
        self.files, self.protocol, self.frames = files, protocol, 0
        self._start, self._heavy = start, heavy
        self._alphas = start.topology.select("name CA")
        self._coarse: list[np.ndarray] = []
        self._fine: list[np.ndarray] = []
        self._partial: list[np.ndarray] = []
        self._broken = False

    @property
    def time(self) -> float:
        """Picoseconds of production so far."""
        return self.frames * self.protocol.interval

    def resume(self, atoms: int) -> RunState | None:
        """The state on disk, with the trajectories cut back to it; None if the replica has not begun.

        Parameters
        ----------
        atoms : int
            Of the model.

        Raises
        ------
        ValueError
            If the state is of another model, or there is a trajectory without a state or a state without its frames.
        """
        files, state = self.files, read_state(self.files)
        if state is None:
            if files.trajectory.exists():
                raise ValueError(
                    f"{files.trajectory} has no state beside it to go on from ({files.state.name}): restore it, or "
                    "move the trajectory away to begin anew"
                )
            return None
        if len(state.positions) != atoms:
            raise ValueError(f"{files.state} has {len(state.positions)} atoms, {files.model} has {atoms}: restore one")
        self.frames = round(state.time / self.protocol.interval)
        _cut(files.trajectory, self.frames)
        if self.protocol.fine:
            _cut(files.fine.trajectory, self.protocol.fine_frames(self.frames))
        return state

    def take(self, positions: np.ndarray, whole: bool = True) -> None:
        """Take positions [atoms, 3] as the next frame, or, if not `whole`, as one on the way to it."""
        frame = positions[self._heavy]
        # about its own centre: a molecule that has diffused far would lose digits in single precision
        frame = (frame - frame.mean(0)).astype(np.float32)
        if self.time < self.protocol.fine:
            self._partial.append(frame)
        if whole:
            self._coarse.append(frame)
            self._fine += self._partial
            self._partial = []
            self.frames += 1

    def forget_partial(self) -> None:
        """Drop what was taken since the last whole frame."""
        self._partial = []

    def save(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Bring the frames taken to the disk, and then the state at the last whole one.

        Parameters
        ----------
        positions, velocities : np.ndarray [atoms, 3]
            nm, nm/ps.
        """
        if self._broken:
            # a save was interrupted: what it wrote is cut back to the state on disk when the run goes on
            return
        self._broken = True
        protocol, files = self.protocol, self.files
        if self._fine:
            fine = files.fine
            fine.folder.mkdir(parents=True, exist_ok=True)
            if not fine.start.exists():
                write_bytes(fine.start, files.start.read_bytes())
            first = protocol.fine_frames(self.frames) - len(self._fine) + 1
            numbers = range(first, first + len(self._fine))
            self._append(fine.trajectory, self._fine, numbers, protocol.fine_interval)
        if self._coarse:
            numbers = range(self.frames - len(self._coarse) + 1, self.frames + 1)
            self._append(files.trajectory, self._coarse, numbers, protocol.interval)
        write_state(files, RunState(self.time, positions, velocities), self.frames * protocol.steps_per_frame)
        self._coarse, self._fine, self._broken = [], [], False

    def _append(self, path: Path, frames: Sequence[np.ndarray], numbers: Iterable[int], interval: float) -> None:
        trajectory = mdtraj.Trajectory(np.array(frames), self._start.topology)
        trajectory.superpose(self._start, atom_indices=self._alphas)
        counts = np.array(list(numbers))
        per_frame = round(interval / self.protocol.timestep)
        with tempfile.TemporaryDirectory() as folder:
            # XTC files are their frames one after another, so what mdtraj writes alone may be appended
            part = Path(folder) / "part.xtc"
            with mdtraj.formats.XTCTrajectoryFile(str(part), "w") as file:
                times, steps = (counts * interval).astype(np.float32), (counts * per_frame).astype(np.int32)
                file.write(trajectory.xyz, time=times, step=steps, box=np.zeros((len(counts), 3, 3), np.float32))
            data = part.read_bytes()
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _cut(path: Path, frames: int) -> None:
    """Cut a trajectory back to its first frames; an empty one is removed, as readers refuse it."""
    if frames:
        if not path.exists():
            raise ValueError(f"{path} is missing, and its state knows of {frames} frames: restore it")
        truncate(path, frames)
    else:
        path.unlink(missing_ok=True)
