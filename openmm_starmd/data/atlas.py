"""Where trajectories are: ATLAS folders and archives, their parents, and topologies with their trajectories."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# ATLAS has named its trajectories NAME_prod_R1_fit.xtc (aligned) and NAME_R1.xtc; the first of these is taken
_REPLICA = re.compile(r"(?P<name>.+?)(?P<kind>_prod_R\d+_fit|_prod_R\d+|_R\d+)\.xtc")
_PREFERENCE = ("_prod_R_fit", "_prod_R", "_R")
_ENDS = 2**16
"""Bytes of either end of a file that its digest covers."""

BARE_TOPOLOGIES = (".prmtop", ".parm7", ".prm7", ".psf", ".hoomdxml")
"""Formats that hold a topology without positions."""
_OWN_TOPOLOGY = (".h5", ".hdf5", ".lh5")
_STRUCTURES = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx")
TOPOLOGIES = (
    *_STRUCTURES,
    *(f"{ending}.gz" for ending in _STRUCTURES),
    *(".gro", ".mol2", ".gsd", ".arc"),
    *BARE_TOPOLOGIES,
    *_OWN_TOPOLOGY,
)
"""All formats that topologies are read from."""


@dataclass(frozen=True)
class File:
    """A file, or a member of a zip archive.

    Attributes
    ----------
    path : str
        Absolute.
    member : str or None
    """

    path: str
    member: str | None = None

    @property
    def name(self) -> str:
        """Its name without folders."""
        return Path(self.member or self.path).name

    def identity(self) -> dict[str, Any]:
        """Name, size and digest, by which a rerun sees whether it is still the same file; JSON-ready."""
        if self.member is not None:
            with zipfile.ZipFile(self.path) as archive:
                info = archive.getinfo(self.member)
            return {"file": f"{self.path}:{self.member}", "size": info.file_size, "digest": f"crc32:{info.CRC:08x}"}
        path = Path(self.path)
        if path.is_dir():
            parts = sorted((p.name, p.stat().st_size) for p in path.rglob("*") if p.is_file())
            digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
            return {"file": self.path, "size": sum(size for _, size in parts), "digest": f"listing:{digest}"}
        size = path.stat().st_size
        hashed = hashlib.sha256()
        with path.open("rb") as file:
            hashed.update(file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            hashed.update(file.read())
        return {"file": self.path, "size": size, "digest": f"ends:{hashed.hexdigest()[:16]}"}

    @contextmanager
    def on_disk(self, folder: Path) -> Iterator[Path]:
        """Its path; a member of an archive is copied into `folder` for as long as this lasts."""
        if self.member is None:
            yield Path(self.path)
            return
        # mdtraj chooses the format by the ending; the process keeps two workers apart
        copy = folder / f".partial-{os.getpid()}-{self.name}"
        try:
            try:
                with (
                    zipfile.ZipFile(self.path) as archive,
                    archive.open(self.member) as source,
                    copy.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target, 2**20)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise ValueError(f"{self.path}: {self.member} is damaged ({error}): download it again") from error
            yield copy
        finally:
            copy.unlink(missing_ok=True)


@dataclass(frozen=True)
class Source:
    """One protein of the input.

    Attributes
    ----------
    name : str
    topology : File or None
        None if it is missing.
    replicas : tuple of (int, File)
        Number and trajectory.
    reason : str
        Why it cannot be used, empty if it may be.
    """

    name: str
    topology: File | None
    replicas: tuple[tuple[int, File], ...]
    reason: str = ""


def find_sources(inputs: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """What the command line names.

    Parameters
    ----------
    inputs : sequence of path
        Each an ATLAS folder (``NAME.pdb``, ``NAME_prod_R1_fit.xtc`` or ``NAME_R1.xtc``), a zip archive of the same, a
        folder of such folders and archives (a folder before an archive of the same name, ``NAME_protein.zip`` before
        others), or a topology followed by its trajectories. A multi-model PDB file or an HDF5 file may stand alone.

    Returns
    -------
    list of Source
        In the order of the input.

    Raises
    ------
    ValueError
        If an input does not exist, holds nothing, or two are of one name.
    """
    sources: list[Source] = []
    group: list[Path] = []

    def close_group() -> None:
        if group:
            sources.append(_from_group(group))
            group.clear()

    for given in inputs:
        path = Path(os.path.abspath(given))  # noqa: PTH100 - links keep their names
        if not path.exists():
            raise ValueError(f"there is no {given}")
        lower = path.name.lower()
        if path.is_dir() and not lower.endswith((".dtr", ".stk")):
            close_group()
            found = _from_folder(path)
            if not found:
                raise ValueError(
                    f"{given} holds neither NAME_prod_R1_fit.xtc or NAME_R1.xtc, nor folders or zip archives that do"
                )
            sources += found
        elif lower.endswith(".zip"):
            close_group()
            sources += _from_zip(path)
        elif lower.endswith(TOPOLOGIES) and not _follows(group, lower):
            close_group()
            group.append(path)
        elif not group:
            raise ValueError(f"{given} has no topology before it: name the PDB file (or prmtop, psf, gro) and then it")
        else:
            group.append(path)
    close_group()

    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"several inputs are named {', '.join(twice)}: rename a topology, or prepare them into stores of their own"
        )
    return sources


def read_split(path: str | os.PathLike[str], only: str | None = None) -> set[str]:
    """Names in a CSV file with the columns ``name`` and ``split``; those of one split if `only` says which.

    Raises
    ------
    ValueError
        If there is no such file, a column is missing, a name is in two splits, or the split is empty.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no split file {path}: give a CSV file with the columns name and split")
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        for column in ("name", "split"):
            if column not in (reader.fieldnames or ()):
                raise ValueError(
                    f"{path} has no column {column!r}: its first line must name the columns name and split"
                )
        splits: dict[str, str] = {}
        for row in reader:
            name, split = (row["name"] or "").strip(), (row["split"] or "").strip()
            if splits.setdefault(name, split) != split:
                raise ValueError(f"{path} has {name} in two splits, {splits[name]} and {split}")
    chosen = {name for name, split in splits.items() if only is None or split == only}
    if not chosen:
        there = ", ".join(sorted(set(splits.values()))) or "none"
        raise ValueError(f"{path} has no name in the split {only!r}; it has {there}")
    return chosen


def _follows(group: list[Path], lower: str) -> bool:
    """Whether a file that could be a topology is a trajectory of the group before it."""
    if not group:
        return False
    first = group[0].name.lower()
    if lower.endswith(_OWN_TOPOLOGY):
        return not first.endswith(_OWN_TOPOLOGY)
    return first.endswith(BARE_TOPOLOGIES) and len(group) == 1


def _from_group(group: list[Path]) -> Source:
    topology, trajectories = group[0], group[1:]
    lower = topology.name.lower()
    ending = next(ending for ending in sorted(TOPOLOGIES, key=len, reverse=True) if lower.endswith(ending))
    if not trajectories:
        if lower.endswith(BARE_TOPOLOGIES):
            raise ValueError(f"{topology} has no trajectory behind it: name its trajectories after it")
        trajectories = [topology]
    files = tuple((number, File(str(path))) for number, path in enumerate(trajectories, start=1))
    return Source(topology.name[: -len(ending)], File(str(topology)), files)


def _from_folder(folder: Path) -> list[Source]:
    """Chains in a folder, else in the folders and archives in it."""
    files = [File(str(path)) for path in sorted(folder.iterdir()) if path.is_file()]
    sources = _chains(files)
    if sources:
        return sources
    found: dict[str, Source] = {}
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    archives = sorted(folder.glob("*.zip"), key=lambda path: (not path.stem.endswith("_protein"), path.name))
    for path in [*folders, *archives]:
        inside = _from_zip(path) if path.suffix == ".zip" else _chains([File(str(p)) for p in sorted(path.iterdir())])
        if not inside and (path / f"{path.name}.pdb").is_file():
            reason = (
                f"{path} holds no {path.name}_prod_R1_fit.xtc or {path.name}_R1.xtc; for files of other names give "
                "the topology followed by its trajectories"
            )
            inside = [Source(path.name, None, (), reason)]
        for source in inside:
            if source.name not in found or found[source.name].reason:
                found[source.name] = source
    return list(found.values())


def _from_zip(path: Path) -> list[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        return [
            Source(_archive_name(path), None, (), f"{path} is no readable zip archive ({error}): download it again")
        ]
    sources = _chains([File(str(path), member) for member in members])
    return sources or [
        Source(_archive_name(path), None, (), f"{path} holds no trajectory NAME_prod_R1_fit.xtc or NAME_R1.xtc")
    ]


def _archive_name(path: Path) -> str:
    return re.sub(r"_(protein|analysis|total)$", "", path.stem)


def _chains(files: list[File]) -> list[Source]:
    """Chains among files of one folder or archive, by their names."""
    # macOS's archives hold twins named ._NAME
    by_name = {file.name: file for file in files if not file.name.startswith("._")}
    found: dict[str, dict[int, tuple[int, File]]] = {}
    for file in by_name.values():
        match = _REPLICA.fullmatch(file.name)
        if match:
            number = int(re.sub(r"\D", "", match["kind"]))
            rank = _PREFERENCE.index(re.sub(r"\d", "", match["kind"]))
            replicas = found.setdefault(match["name"], {})
            if number not in replicas or rank < replicas[number][0]:
                replicas[number] = (rank, file)
    sources = []
    for name, replicas in sorted(found.items()):
        topology = by_name.get(f"{name}.pdb")
        trajectories = tuple((number, replicas[number][1]) for number in sorted(replicas))
        first = trajectories[0][1]
        place = Path(first.path).parent if first.member is None else first.path
        reason = "" if topology else f"{name}.pdb is missing beside its trajectories in {place}"
        sources.append(Source(name, topology, trajectories, reason))
    return sources
