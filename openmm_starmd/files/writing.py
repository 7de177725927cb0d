"""Files that are whole or not there, in folders that one process at a time writes to."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write in place of `path`, which it becomes when the ``with`` block ends well.

    Parameters
    ----------
    path : path
        Need not exist; its folder must.

    Yields
    ------
    Path
        A new, empty file beside `path` with the same ending, for writers that choose the format by it. Its name cannot
        be guessed, and it is made by this process alone, so that no link laid there is followed.

    Notes
    -----
    On the disk before it is renamed, so that a crash of the machine leaves the old file or the new one. An exception
    removes it and leaves `path` as it was; a kill leaves a file ``.partial-*``.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")
    # the mode is the umask's to restrict, as for any new file
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _to_disk(path.parent)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new, empty folder that becomes `path` when the ``with`` block ends well, and is removed when it does not.

    Parameters
    ----------
    path : path
        Must not exist, or be an empty folder; its parent must exist.

    Yields
    ------
    Path
        Beside `path`, under a name that cannot be guessed. A kill leaves it behind as ``.partial-*``.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _to_disk(path.parent)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half done in a folder, and in folders there; hold its :func:`lock`."""
    for path in [*folder.glob(".partial-*"), *folder.glob("*/.partial-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a binary file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def lock(folder: Path, doing: str, hint: str = "wait for it") -> Iterator[None]:
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


def _to_disk(path: Path) -> None:
    """Have the system write a file, or the entries of a folder, to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
