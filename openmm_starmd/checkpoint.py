"""The checkpoint file: OpenMM's own bytes behind a header that tells it from a foreign or a damaged file.

OpenMM reads a checkpoint of another System, or a truncated one, without complaint and leaves garbage in the
integrator's variables, so the file is checked before OpenMM sees it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

MAGIC = b"openmm-starmd checkpoint 1\n"
MAGIC_SEGMENT = b"openmm-starmd checkpoint 2\n"
"""Of a file that holds the state of a classical segment too."""


def pack(checkpoint: bytes, segment: bytes | None = None) -> bytes:
    """Header, SHA-256 and the bytes of ``Context.createCheckpoint()``, with those of a segment where there is one."""
    if segment is None:
        return MAGIC + hashlib.sha256(checkpoint).digest() + checkpoint
    body = len(checkpoint).to_bytes(8, "little") + checkpoint + segment
    return MAGIC_SEGMENT + hashlib.sha256(body).digest() + body


def unpack(data: bytes) -> tuple[bytes, bytes | None]:
    """Inverse of :func:`pack`; a foreign or damaged file raises a ValueError."""
    if not data.startswith((MAGIC, MAGIC_SEGMENT)):
        raise ValueError(
            "not a checkpoint written by StarMDSimulation.saveCheckpoint(). A classical simulation's checkpoint holds "
            "no learned frames; an XML state is read by loadState()"
        )
    digest, body = data[len(MAGIC) : len(MAGIC) + 32], data[len(MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("the checkpoint is damaged: its checksum does not fit. Was it copied in full?")
    if data.startswith(MAGIC):
        return body, None
    end = 8 + int.from_bytes(body[:8], "little")
    return body[8:end], body[end:]


def write(file: str | os.PathLike[str] | IO, data: bytes | str) -> None:
    """Write `data` to an open file, or to a path by renaming a finished temporary file."""
    if not isinstance(file, (str, os.PathLike)):
        file.write(data)
        return
    path = Path(file)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data) if isinstance(data, bytes) else temporary.write_text(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(file: str | os.PathLike[str] | IO) -> bytes:
    """Content of an open file, binary or text, or of a path."""
    data = file.read() if hasattr(file, "read") else Path(file).read_bytes()
    return data.encode() if isinstance(data, str) else data
