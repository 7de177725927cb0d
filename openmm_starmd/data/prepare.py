"""Trajectories into a store: many proteins in parallel processes; run the same command again to resume."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from openmm_starmd.data.atlas import Source, find_sources, read_split
from openmm_starmd.data.conversion import (
    Settings,
    convert_replica,
    describe_source,
    forget,
    reason,
    start_worker,
)
from openmm_starmd.data.resume import (
    Rejection,
    RejectionTable,
    described,
    missing_replicas,
    open_for_writing,
    sweep,
)
from openmm_starmd.data.store import PROTEIN_FILE, REPLICA_FILE
from openmm_starmd.files.writing import lock

_Job: TypeAlias = tuple[Source, list[int]]
"""A protein and the numbers of its trajectories to convert."""


@dataclass
class Outcome:
    """What a conversion did.

    Attributes
    ----------
    converted : int
        Trajectories.
    frames : int
        Of these, as stored.
    present : int
        Trajectories that an earlier run had converted.
    unwanted : int
        Proteins outside the split.
    rejected : list of Rejection
    """

    converted: int = 0
    frames: int = 0
    present: int = 0
    unwanted: int = 0
    rejected: list[Rejection] = field(default_factory=list)


def prepare(
    inputs: Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    split: str | os.PathLike[str] | None = None,
    only: str | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Outcome:
    """Convert trajectories to the store described in :mod:`openmm_starmd.data.store`.

    What an earlier run finished stays; what it left half done is done again. One that cannot be used is
    reported in ``STORE/rejected.csv``, and the others go on.

    Parameters
    ----------
    inputs : sequence of path
        As :func:`openmm_starmd.data.atlas.find_sources` reads them.
    store : path
        Folder, made if there is none.
    settings : Settings, optional
    split : path, optional
        CSV file with the columns name and split; proteins it does not name are left out.
    only : str, optional
        The one split to convert.
    workers : int
        Processes.
    progress : bool
        Show a bar on stderr.

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError
        If an input does not exist, the store was made with other settings or from other files, or another process is
        writing to it.
    """
    settings, store = settings or Settings(), Path(os.path.abspath(store))  # noqa: PTH100 - links keep their names
    _check(settings, workers)
    if only is not None and split is None:
        raise ValueError("--only chooses a split: say with --split which CSV file has them")
    sources, outcome = find_sources(inputs), Outcome()
    if split is not None:
        names = read_split(split, only)
        outcome.unwanted = sum(source.name not in names for source in sources)
        sources = [source for source in sources if source.name in names]
        if not sources:
            raise ValueError(f"none of the input's proteins is in {split}" + (f" as {only}" if only else ""))

    forget()
    open_for_writing(store, settings)
    with lock(store, "writing to"):
        sweep(store)
        table = RejectionTable(store, {source.name for source in sources})
        jobs: list[_Job] = []
        for source in sources:
            if source.reason:
                table.add(Rejection(source.name, None, source.reason))
                continue
            numbers = missing_replicas(source, store, settings)
            outcome.present += len(source.replicas) - len(numbers)
            if numbers:
                jobs.append((source, numbers))
        total = sum(len(numbers) for _, numbers in jobs)
        with tqdm(total=total, unit="trajectory", disable=not progress or None, smoothing=0) as bar:
            ledger = _Ledger(outcome, table, bar)
            if workers == 1:
                _run_here(jobs, store, settings, ledger)
            else:
                _run_in_workers(jobs, store, settings, workers, ledger)
        for folder in store.iterdir():
            if (folder / PROTEIN_FILE).is_file() and not any(folder.glob(f"R*/{REPLICA_FILE}")):
                shutil.rmtree(folder)
    outcome.rejected = table.new
    return outcome


def _check(settings: Settings, workers: int) -> None:
    """Raise a ValueError for a number that makes no sense."""
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one is needed")
    if settings.max_length < 3:
        raise ValueError(f"--max-length is {settings.max_length}; a protein has at least three residues")
    for name, value in (("every", settings.every), ("interval", settings.interval)):
        if value is not None and not value > 0:
            raise ValueError(f"--{name} is {value} ps; it must be positive")


@dataclass(frozen=True)
class _Ledger:
    """Where the results of jobs are entered."""

    outcome: Outcome
    table: RejectionTable
    bar: tqdm

    def undescribed(self, source: Source, numbers: list[int], error: BaseException) -> None:
        """A protein failed, and none of its trajectories is converted."""
        self.table.add(Rejection(source.name, None, reason(error)))
        self.bar.total -= len(numbers)
        self.bar.refresh()

    def unconverted(self, source: Source, number: int, error: BaseException) -> None:
        """A trajectory failed."""
        self.table.add(Rejection(source.name, number, reason(error)))
        self.bar.update()

    def converted(self, frames: int) -> None:
        """A trajectory of so many frames was converted."""
        self.outcome.converted += 1
        self.outcome.frames += frames
        self.bar.update()

    def read(self, frames: int) -> None:
        """Show how many frames have been read in all."""
        self.bar.set_postfix(frames=frames, refresh=False)
        self.bar.update(0)


def _run_here(jobs: list[_Job], store: Path, settings: Settings, ledger: _Ledger) -> None:
    """Do all jobs in this process; each protein's folder comes before its trajectories."""
    read = 0

    def count(frames: int) -> None:
        nonlocal read
        read += frames
        ledger.read(read)

    for source, numbers in jobs:
        try:
            if not described(source, store):
                describe_source(source, store, settings)
        except Exception as error:
            ledger.undescribed(source, numbers, error)
            continue
        for number in numbers:
            try:
                ledger.converted(convert_replica(source, number, store, settings, count))
            except Exception as error:
                ledger.unconverted(source, number, error)


def _run_in_workers(jobs: list[_Job], store: Path, settings: Settings, workers: int, ledger: _Ledger) -> None:
    """Do all jobs in several processes; each protein's folder comes before its trajectories."""
    # forking a process with torch's and HDF5's threads may hang it
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(
        min(workers, max(1, ledger.bar.total)), context, initializer=start_worker, initargs=(counter, os.getpid())
    )
    # the number of the replica is None for the job that writes the protein's folder
    pending: dict[Future[Any], tuple[Source, list[int], int | None]] = {}

    def convert(source: Source, numbers: list[int]) -> None:
        for number in numbers:
            job = pool.submit(convert_replica, source, number, store, settings)
            pending[job] = (source, numbers, number)

    try:
        for source, numbers in jobs:
            if described(source, store):
                convert(source, numbers)
            else:
                pending[pool.submit(describe_source, source, store, settings)] = (source, numbers, None)
        while pending:
            done, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                source, numbers, replica = pending.pop(future)
                failure = future.exception()
                if isinstance(failure, BrokenProcessPool):
                    raise ValueError(
                        "a worker process died, probably for want of memory: run the same command again to go on, with "
                        "fewer --workers"
                    ) from failure
                if failure is not None and replica is not None:
                    ledger.unconverted(source, replica, failure)
                elif failure is not None:
                    ledger.undescribed(source, numbers, failure)
                elif replica is not None:
                    ledger.converted(future.result())
                else:
                    convert(source, numbers)
            ledger.read(counter.value)
    finally:
        pool.shutdown(cancel_futures=True)
