"""One protein and one trajectory into the store: the jobs that worker processes do."""

from __future__ import annotations

import errno
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import mdtraj

from openmm_starmd.data.atlas import BARE_TOPOLOGIES, File, Source
from openmm_starmd.data.description import Description, describe
from openmm_starmd.data.reading import read_frames
from openmm_starmd.data.store import folder_name
from openmm_starmd.data.writer import ReplicaWriter, write_protein
from openmm_starmd.files.reading import load_frames

_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Settings:
    """What decides the content of a store.

    Attributes
    ----------
    max_length : int
        Residues; longer proteins are rejected.
    every : float or None
        ps between the frames to keep; all frames by default.
    interval : float or None
        ps between the frames of the files, in place of their own times.
    chunk : int or None
        Frames converted at once; about 32 MiB of coordinates by default. Changes no result.
    """

    max_length: int = 384
    every: float | None = None
    interval: float | None = None
    chunk: int | None = None


def describe_source(source: Source, store: Path, settings: Settings) -> None:
    """Write a protein's folder without its trajectories.

    Raises
    ------
    ValueError
        If the protein cannot be used; says why.
    """
    _, description = _start(source, store)
    length = description.features.length
    if length > settings.max_length:
        raise ValueError(f"it has {length} residues, more than --max-length {settings.max_length}")
    write_protein(store / folder_name(source.name), source.name, description, _topology(source).identity())


def convert_replica(
    source: Source, number: int, store: Path, settings: Settings, count: Callable[[int], None] | None = None
) -> int:
    """Write one trajectory of a protein whose folder is there.

    Parameters
    ----------
    source : Source
    number : int
        Of the replica.
    store : Path
    settings : Settings
    count : callable, optional
        Called with the number of frames read since the last call.

    Returns
    -------
    int
        Frames written.

    Raises
    ------
    ValueError
        If the trajectory cannot be used; says why.
    """
    start, description = _start(source, store)
    folder = store / folder_name(source.name)
    file = dict(source.replicas)[number]
    with file.on_disk(store) as path:
        writer = ReplicaWriter(folder / f"R{number}", description)
        try:
            seen = 0
            for backbone, torsions, clock in read_frames(
                path, start, description, settings.every, settings.interval, settings.chunk
            ):
                writer.append(backbone, torsions)
                (count or _count)(clock.seen - seen)
                seen = clock.seen
            writer.finish(
                {"interval": clock.interval, "given_interval": settings.interval, "source": file.identity()},
            )
        except BaseException:
            writer.abandon()
            raise
    return writer.frames


def reason(error: BaseException) -> str:
    """Why something was rejected, in one line; a full or read-only disk is raised again, since it stops everything."""
    if isinstance(error, OSError) and error.errno in _FATAL:
        raise error
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


@functools.lru_cache(maxsize=1)
def _start(source: Source, store: Path) -> tuple[mdtraj.Trajectory, Description]:
    """First structure of a protein with all atoms of its files, and what is kept of them; remembers the last."""
    file = _topology(source)
    with file.on_disk(store) as path:
        try:
            if path.name.lower().endswith(BARE_TOPOLOGIES):
                topology = mdtraj.load_topology(str(path))
                with source.replicas[0][1].on_disk(store) as trajectory:
                    start = next(mdtraj.iterload(str(trajectory), chunk=1, top=topology))
            elif path.name.lower().endswith((".h5", ".hdf5")):
                start = next(mdtraj.iterload(str(path), chunk=1))
            else:
                start = load_frames(path)[0]
        except Exception as error:
            # mdtraj's readers raise whatever the damage happens to cause
            raise ValueError(f"{file.name} cannot be read: {type(error).__name__}: {error}") from error
    return start, describe(start)


def forget() -> None:
    """Forget the protein that was read last: its files may have changed since."""
    _start.cache_clear()


def _topology(source: Source) -> File:
    if source.topology is None:
        raise ValueError(source.reason)
    return source.topology


_counter: Synchronized[int] | None = None


def start_worker(counter: Synchronized[int], parent: int) -> None:
    """Make a fresh process a worker: it counts frames into `counter` and ends when its parent is gone."""
    global _counter  # noqa: PLW0603 - jobs reach a worker's state by no other way
    _counter = counter
    # Ctrl-C reaches every process of the terminal; without Python's handler a worker ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _count(frames: int) -> None:
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += frames
