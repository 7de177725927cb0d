"""Files of a training run: written whole or not at all, and never by two processes."""

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
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against a second process that would train into it; any death of the holder frees it.

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
            raise ValueError(
                f"another process is training into {folder}: wait for it (or for its data loaders to end, if it was "
                "killed a moment ago), or choose another --output"
            ) from error
        yield
    finally:
        os.close(handle)
