"""The checkpoint file: OpenMM's own bytes behind a header that tells it from a foreign or a damaged file.

OpenMM reads a checkpoint of another System, or a truncated one, without complaint and leaves garbage in the
integrator's variables, so the file is checked before OpenMM sees it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

from openmm_starmd.files.writing import write_bytes, write_text

MAGIC = b"openmm-starmd checkpoint 1\n"
MAGIC_SEGMENT = b"openmm-starmd checkpoint 2\n"
"""Of a file that holds the state of a classical segment too."""
MAGIC_PROPAGATOR = b"openmm-starmd checkpoint 3\n"
"""Of a file that holds the state of a propagator too, and perhaps that of a segment."""


class Contents(NamedTuple):
    """What a checkpoint file holds.

    Attributes
    ----------
    frames : bytes
        Of ``Context.createCheckpoint()``.
    segment : bytes or None
        State of the classical segment it was saved in.
    propagator : bytes or None
        State of the propagator.
    """

    frames: bytes
    segment: bytes | None = None
    propagator: bytes | None = None


def pack(contents: Contents) -> bytes:
    """Header, SHA-256 and the contents."""
    frames, segment, propagator = contents
    if propagator is not None:
        magic, body = (
            MAGIC_PROPAGATOR,
            _counted(frames) + _counted(propagator) + (b"" if segment is None else b"S" + segment),
        )
    elif segment is not None:
        magic, body = MAGIC_SEGMENT, _counted(frames) + segment
    else:
        magic, body = MAGIC, frames
    return magic + hashlib.sha256(body).digest() + body


def unpack(data: bytes) -> Contents:
    """Inverse of :func:`pack`; a foreign or damaged file raises a ValueError."""
    if not data.startswith((MAGIC, MAGIC_SEGMENT, MAGIC_PROPAGATOR)):
        raise ValueError(
            "not a checkpoint written by StarMDSimulation.saveCheckpoint(). A classical simulation's checkpoint holds "
            "no learned frames; an XML state is read by loadState()"
        )
    digest, body = data[len(MAGIC) : len(MAGIC) + 32], data[len(MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("the checkpoint is damaged: its checksum does not fit. Was it copied in full?")
    if data.startswith(MAGIC):
        return Contents(body)
    frames, rest = _split(body)
    if data.startswith(MAGIC_SEGMENT):
        return Contents(frames, rest)
    propagator, rest = _split(rest)
    return Contents(frames, rest[1:] if rest else None, propagator)


def write(file: str | os.PathLike[str] | IO[Any], data: bytes | str) -> None:
    """Write `data` to an open file, or to a path whole or not at all."""
    if not isinstance(file, (str, os.PathLike)):
        file.write(data)
    elif isinstance(data, bytes):
        write_bytes(file, data)
    else:
        write_text(file, data)


def read(file: str | os.PathLike[str] | IO[Any]) -> bytes:
    """Content of an open file, binary or text, or of a path."""
    data: bytes | str = Path(file).read_bytes() if isinstance(file, (str, os.PathLike)) else file.read()
    return data.encode() if isinstance(data, str) else data


def _counted(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def _split(body: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(body[:8], "little")
    return body[8:end], body[end:]
