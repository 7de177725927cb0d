"""MD data of many proteins in parallel processes, restartable: run the same command again to resume."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path

from openmm_starmd.classical.recording import RunFiles
from openmm_starmd.classical.replicas import DOING, Protocol, run_replica
from openmm_starmd.files.reading import structure_name
from openmm_starmd.files.writing import lock, sweep


def make_data(
    inputs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    duration: float,
    replicas: int = 1,
    *,
    workers: int = 1,
    protocol: Protocol | None = None,
    report: Callable[[str], object] = print,
) -> dict[str, str]:
    """Run every replica of every protein to `duration`.

    Parameters
    ----------
    inputs : iterable of path
        PDB or mmCIF files of complete proteins; the file's stem names the folder.
    output : path
        Root of the ATLAS-style tree.
    duration : float
        Picoseconds of production per replica in total, so that a longer one extends what is there; 0 only prepares
        the models.
    replicas : int
        Per protein, numbered from 1.
    workers : int
        Processes, one thread each. They end with this one, however it ends.
    protocol : Protocol, optional
        Settings of the MD.
    report : callable
        Called with one line as each replica ends.

    Returns
    -------
    dict of str to str
        What failed, by ``NAME R1``, and why; the rest went on. Folders that another process holds are among these.

    Raises
    ------
    ValueError
        If a file is missing, two share a name, or a number is out of range.
    """
    paths = named_inputs(inputs)
    if replicas < 1 or workers < 1 or duration < 0:
        raise ValueError("replicas and workers must be positive, and duration not negative")
    protocol = protocol or Protocol()
    protocol.check()
    with held(paths, output, report) as (mine, failed), processes(min(workers, len(paths) * replicas)) as pool:
        # replicas share one all-atom model, which the first job of a protein makes before others start
        ready: dict[Future[None], str] = {
            pool.submit(_job, path, output, 0.0, 1, protocol): name for name, path in mine.items()
        }
        jobs: dict[Future[None], str] = {}
        for future in as_completed(ready):
            name = ready[future]
            if future.exception() is not None:
                failed[name] = reason(future.exception())
                report(f"{name}: failed: {failed[name]}")
            elif not duration:
                report(f"{name}: prepared")
            else:
                for replica in range(1, replicas + 1):
                    job = pool.submit(_job, mine[name], output, duration, replica, protocol)
                    jobs[job] = f"{name} R{replica}"
        for future in as_completed(jobs):
            label = jobs[future]
            if future.exception() is not None:
                failed[label] = reason(future.exception())
                report(f"{label}: failed: {failed[label]}")
            else:
                report(f"{label}: {duration:g} ps done")
    return failed


def named_inputs(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The inputs as paths; a ValueError if one is missing or two share a name."""
    paths = [Path(path) for path in inputs]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"no such file: {', '.join(missing)}")
    stems = [structure_name(path) for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"several inputs are named {', '.join(twice)}; the name decides the folder, so rename one")
    return paths


@contextmanager
def held(
    paths: Iterable[Path], output: str | os.PathLike[str], report: Callable[[str], object]
) -> Iterator[tuple[dict[str, Path], dict[str, str]]]:
    """The folders of proteins, made and held against other processes.

    Yields
    ------
    dict of str to Path, dict of str to str
        The inputs by name, and why the others are left out: another process makes MD in their folders.
    """
    mine: dict[str, Path] = {}
    failed: dict[str, str] = {}
    with ExitStack() as locks:
        for path in paths:
            name = structure_name(path)
            folder = Path(output) / name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                locks.enter_context(lock(folder, DOING))
            except ValueError as error:
                failed[name] = reason(error)
                report(f"{name}: failed: {failed[name]}")
                continue
            sweep(folder)
            sweep(RunFiles(folder, name, 1).fine.folder)
            mine[name] = path
        yield mine, failed


def prepare_models(
    inputs: Mapping[str, Path],
    output: str | os.PathLike[str],
    protocol: Protocol,
    workers: int,
    report: Callable[[str], object],
) -> dict[str, str]:
    """Make the models of proteins whose folders are held.

    Returns
    -------
    dict of str to str
        What failed, by name, and why.
    """
    failed: dict[str, str] = {}
    with processes(min(workers, max(1, len(inputs)))) as pool:
        jobs = {pool.submit(_job, path, output, 0.0, 1, protocol): name for name, path in inputs.items()}
        for future in as_completed(jobs):
            if future.exception() is not None:
                failed[jobs[future]] = reason(future.exception())
                report(f"{jobs[future]}: failed: {failed[jobs[future]]}")
    return failed


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that end with this one; what waits is dropped when the ``with`` block ends."""
    # OpenMM's threads do not survive a fork
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def reason(error: BaseException | None) -> str:
    """Kind and text of an error, as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _job(path: Path, output: str | os.PathLike[str], duration: float, replica: int, protocol: Protocol) -> None:
    run_replica(path, output, duration, replica, protocol=protocol)


def _end_with_parent() -> None:
    """Have this worker end as soon as its parent has ended, also where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        # at once: files are whole or not there, whenever a process ends
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
