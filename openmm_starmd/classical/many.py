"""MD data of many proteins in parallel processes, restartable: run the same command again to resume."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from openmm_starmd.classical.replicas import make_replica
from openmm_starmd.files.reading import structure_name


def make_data(
    inputs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    duration: float,
    replicas: int = 1,
    *,
    workers: int = 1,
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
        Picoseconds of production per replica in total, so that a longer one extends what is there.
    replicas : int
        Per protein, numbered from 1.
    workers : int
        Processes, one thread each.
    report : callable
        Called with one line as each replica ends.

    Returns
    -------
    dict of str to str
        What failed, by ``NAME R1``, and why; the rest went on.

    Raises
    ------
    ValueError
        If a file is missing, two share a name, or a number is out of range.
    """
    paths = [Path(path) for path in inputs]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"no such file: {', '.join(missing)}")
    stems = [structure_name(path) for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"several inputs are named {', '.join(twice)}; the name decides the folder, so rename one")
    if replicas < 1 or workers < 1 or duration <= 0:
        raise ValueError("duration, replicas and workers must be positive")

    failed: dict[str, str] = {}
    # OpenMM's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(paths) * replicas), mp_context=context)
    try:
        # replicas share one all-atom model, which the first job of a protein makes before others start
        ready: dict[Future[None], Path] = {pool.submit(_job, path, output, 0.0, 1): path for path in paths}
        jobs: dict[Future[None], str] = {}
        for future in as_completed(ready):
            path = ready[future]
            if future.exception() is not None:
                name = structure_name(path)
                failed[name] = _reason(future)
                report(f"{name}: failed: {failed[name]}")
                continue
            for replica in range(1, replicas + 1):
                jobs[pool.submit(_job, path, output, duration, replica)] = f"{structure_name(path)} R{replica}"
        for future in as_completed(jobs):
            label = jobs[future]
            if future.exception() is not None:
                failed[label] = _reason(future)
                report(f"{label}: failed: {failed[label]}")
            else:
                report(f"{label}: {duration:g} ps done")
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _job(path: Path, output: str | os.PathLike[str], duration: float, replica: int) -> None:
    make_replica(path, output, duration, replica=replica)


def _reason(future: Future[None]) -> str:
    error = future.exception()
    return " ".join(f"{type(error).__name__}: {error}".split())
