"""Files that are whole or not there, in folders that one process at a time writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file by renaming a finished temporary one."""
    temporary = path.with_name(f".partial-{path.name}")
    temporary.write_text(text)
    os.replace(temporary, path)


@contextmanager
def alone(folder: Path, doing: str, hint: str = "wait for it") -> Iterator[None]:
    """Hold a folder against a second process that would write the same files; any death of the holder frees it.

    Parameters
    ----------
    folder : Path
    doing : str
        What the other process is doing, for the error: ``"training into"``.
    hint : str
        What to do about it, beside choosing another folder.

    Raises
    ------
    ValueError
        If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is {doing} {folder}: {hint}, or choose another --output") from error
        yield
    finally:
        os.close(handle)
