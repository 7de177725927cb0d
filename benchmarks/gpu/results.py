"""What goes back: at most so many files of at most so many bytes, each whole at any moment."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openmm_starmd.files.writing import replacing

MEBI = 2**20
BLOCK = tarfile.BLOCKSIZE
SUMMARY = "summary.json"
"""The one file that always comes back; written after these limits are seen to."""


@dataclass(frozen=True)
class Limits:
    """What comes back from a folder of results.

    Attributes
    ----------
    files : int
    file_bytes, bytes : int
        Of one file, and of all.
    """

    files: int = 8
    file_bytes: int = 15 * MEBI
    bytes: int = 60 * MEBI


def enforce(folder: Path, limits: Limits, aside: Path) -> list[str]:
    """Move what would not come back, beside the summary, out of the folder of results.

    Returns
    -------
    list of str
        ``NAME (why)`` for each file moved to `aside`.
    """
    left_out, count, total = [], 1, MEBI  # the summary's, which is far smaller
    for path in sorted(path for path in folder.iterdir() if path.name != SUMMARY):
        size = path.stat().st_size
        if not path.is_file() or path.name.startswith(".partial-"):
            why = "not a whole file"
        elif not re.fullmatch(r"[A-Za-z0-9._-]+", path.name):
            why = "its name has characters that do not travel"
        elif size > limits.file_bytes:
            why = f"{size / MEBI:.1f} MiB"
        elif count + 1 > limits.files:
            why = f"more than {limits.files} files"
        elif total + size > limits.bytes:
            why = f"more than {limits.bytes / MEBI:.0f} MiB in all"
        else:
            count, total = count + 1, total + size
            continue
        aside.mkdir(parents=True, exist_ok=True)
        # results may lie on another file system than the work folder
        shutil.move(path, aside / path.name)
        left_out.append(f"{path.name} ({why})")
    return left_out


def files_of(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Files below a folder with one of these endings, those being written aside."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".partial-"))
    return sorted(p for p in found if p.name.endswith(tuple(endings)))


def pack(
    groups: Iterable[tuple[str, Sequence[tuple[Path, str]]]], folder: Path, stem: str, most: int, size: int
) -> list[str]:
    """Pack groups of files, the most valuable first, into ``STEM_1.tar``, ``STEM_2.tar``, ...

    Parameters
    ----------
    groups : iterable of (name, files)
        Files that belong together, with their names in the archive; a group is packed whole or not at all.
    folder : Path
    stem : str
    most : int
        Archives.
    size : int
        Bytes of an archive.

    Returns
    -------
    list of str
        ``NAME (why)`` of the groups that found no room.
    """
    # an archive ends with two empty blocks and is padded to whole records
    most_bytes = size // tarfile.RECORDSIZE * tarfile.RECORDSIZE - 2 * BLOCK
    bins: list[list[tuple[Path, str]]] = []
    room: list[int] = []
    left_out = []
    for name, files in groups:
        # a member has a header, two more where its name is long, and is padded to whole blocks
        need = sum(BLOCK * (3 + -(-path.stat().st_size // BLOCK)) for path, _ in files)
        place = next((k for k, free in enumerate(room) if need <= free), None)
        if place is None and len(bins) < most and need <= most_bytes:
            bins.append([])
            room.append(most_bytes)
            place = len(bins) - 1
        if place is None:
            left_out.append(f"{name} ({need / MEBI:.1f} MiB)")
            continue
        bins[place] += files
        room[place] -= need
    for number, files in enumerate(bins, start=1):
        with (
            replacing(folder / f"{stem}_{number}.tar") as temporary,
            tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive,
        ):
            for path, name in files:
                archive.add(path, arcname=name)
    return left_out
