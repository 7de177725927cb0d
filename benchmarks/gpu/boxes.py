"""Time boxes: a stage as a process that is asked to end when its time is up, and ended if it does not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TAIL = 60  # lines of a log that the summary shows


class Ended(NamedTuple):
    """How a process ended: ``"done"``, ``"failed"``, ``"stopped"`` (asked to, at its time) or ``"killed"``."""

    status: str
    returncode: int
    seconds: float


def run_box(
    command: Sequence[str],
    log: Path,
    seconds: float,
    grace: float,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    every: float = 60.0,
    meanwhile: Callable[[], object] = lambda: None,
) -> Ended:
    """Run a command, all its output into a file, for so many seconds at most.

    Parameters
    ----------
    command : sequence of str
    log : Path
    seconds : float
        Then the process and those it started are sent SIGTERM.
    grace : float
        Seconds after that until SIGKILL.
    environment : mapping, optional
        Beside this process's own.
    folder : Path, optional
        To run in.
    every : float
        Seconds between calls of `meanwhile`, which are made while it runs.
    meanwhile : callable

    Returns
    -------
    Ended
    """
    began = time.monotonic()
    with log.open("wb") as file:
        # a process group of its own, so that all of a stage can be ended, in this session, so that none outlives it
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            process_group=0,
        )
        try:
            status = _wait(process, began, seconds, grace, every, meanwhile)
        except BaseException:
            _signal(process, signal.SIGKILL)
            process.wait()
            raise
        # what the stage itself started may outlive it
        _signal(process, signal.SIGKILL)
    return Ended(status, process.returncode, time.monotonic() - began)


def _wait(
    process: subprocess.Popen[bytes],
    began: float,
    seconds: float,
    grace: float,
    every: float,
    meanwhile: Callable[[], object],
) -> str:
    due = every
    while process.poll() is None:
        spent = time.monotonic() - began
        if spent > seconds:
            _signal(process, signal.SIGTERM)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
                return "killed"
            return "stopped"
        if spent > due:
            meanwhile()
            due = spent + every
        time.sleep(min(0.2, max(0.01, seconds - spent)))
    return "failed" if process.returncode else "done"


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to all processes of the group that are left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def tail(log: Path, lines: int = TAIL) -> list[str]:
    """The last lines of a log, each cut to a width that people read."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 2**16))
        text = file.read().decode(errors="replace")
    # a progress bar writes its states behind one another, the last one counts
    return [line.rsplit("\r", 1)[-1][:300] for line in text.rstrip().split("\n")][-lines:]
