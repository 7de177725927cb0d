"""Cut a file back to its first frames or lines, so that a resumed run can append to it.

DCD and XTC files are cut byte for byte: reading and writing again with a trajectory library would round the coordinates
of the frames kept.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from openmm_starmd.files.writing import replacing, write_text

# Position of the box flag in a DCD header, and of the two counters a writer updates.
_DCD_BOX, _DCD_FRAMES, _DCD_LAST_STEP = 48, 8, 20


def truncate(path: str | os.PathLike[str], frames: int) -> None:
    """Keep the first frames of a trajectory; a torn frame after them is dropped too.

    Parameters
    ----------
    path : path
        Ends in ``.dcd`` (as OpenMM writes it) or ``.xtc``. Replaced in one move, if there is something to drop.
    frames : int
        Frames to keep.

    Raises
    ------
    ValueError
        If the file is of no such format or holds fewer whole frames.
    """
    path = Path(path)
    with path.open("rb") as file:
        dcd = path.suffix == ".dcd"
        length = _dcd_length(path, file, frames) if dcd else _xtc_length(path, file, frames)
        file.seek(0)
        head = bytearray(file.read(min(length, 276)))
        if dcd:
            first, interval = struct.unpack_from("<2i", head, 12)
            struct.pack_into("<i", head, _DCD_FRAMES, frames)
            struct.pack_into("<i", head, _DCD_LAST_STEP, first + max(0, frames - 1) * interval)
        file.seek(0)
        if length == path.stat().st_size and file.read(len(head)) == head:
            return
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        with temporary.open("r+b") as file:
            file.truncate(length)
            file.write(head)


def whole_lines(path: str | os.PathLike[str]) -> list[str]:
    """Lines of a text file, each with its newline; a last one that a kill left without is not among them."""
    with Path(path).open() as file:
        return [line for line in file if line.endswith("\n")]


def cut_lines(path: str | os.PathLike[str], keep: int) -> None:
    """Keep the first lines of a text file; a torn last line is dropped too.

    Parameters
    ----------
    path : path
        Replaced in one move, if there is something to drop.
    keep : int
        Lines to keep. All whole ones stay if there are no more.
    """
    kept = "".join(whole_lines(path)[:keep])
    if kept != Path(path).read_text():
        write_text(path, kept)


def _dcd_length(path: Path, file: BinaryIO, frames: int) -> int:
    """Bytes of header and first `frames` frames of a DCD file."""
    header = file.read(100)
    if len(header) < 100 or header[:8] != struct.pack("<i", 84) + b"CORD":
        raise ValueError(f"{path} is not a DCD file as OpenMM writes it")
    comments = struct.unpack_from("<i", header, 92)[0]
    file.seek(104 + comments)
    atoms = struct.unpack("<i", file.read(4))[0]
    box = 56 if struct.unpack_from("<i", header, _DCD_BOX)[0] else 0
    start, size = 112 + comments, box + 3 * (4 * atoms + 8)
    _check(path, (path.stat().st_size - start) // size, frames)
    return start + frames * size


def _xtc_length(path: Path, file: BinaryIO, frames: int) -> int:
    """Bytes of the first `frames` frames of an XTC file."""
    ends = [0]
    for end in _xtc_ends(path, file):
        if len(ends) > frames:
            break
        ends.append(end)
    _check(path, len(ends) - 1, frames)
    return ends[frames]


def _xtc_ends(path: Path, file: BinaryIO) -> Iterator[int]:
    """End of each whole frame. The layout is GROMACS's: big-endian XDR, coordinates packed into counted bytes."""
    total, place = path.stat().st_size, 0
    while place + 56 <= total:
        file.seek(place)
        magic, atoms = struct.unpack(">2i", file.read(8))
        if magic not in (1995, 2023):
            raise ValueError(f"{path} is not an XTC file, or is damaged at byte {place}")
        # magic, atoms, step, time, box [9], atoms again
        place += 56
        if atoms <= 9:
            place += 12 * atoms
        else:
            # precision, smallest and largest integers [3] each, index; then the count, 8 bytes wide in the 2023 form
            width = 8 if magic == 2023 else 4
            file.seek(place + 32)
            count = file.read(width)
            if len(count) < width:
                return
            place += 32 + width + (int.from_bytes(count, "big") + 3) // 4 * 4
        if place > total:
            return
        yield place


def _check(path: Path, found: int, needed: int) -> None:
    if found < needed:
        raise ValueError(
            f"{path} holds {found} whole frames where the checkpoint knows of {needed}: was it replaced or shortened? "
            "Start a new run in another directory"
        )
