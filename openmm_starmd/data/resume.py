"""What an earlier conversion left in a store: checked, swept, resumed."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_starmd.data.atlas import Source
from openmm_starmd.data.conversion import Settings
from openmm_starmd.data.store import FORMAT, PROTEIN_FILE, REPLICA_FILE, STORE_FILE, folder_name, read_json
from openmm_starmd.data.writer import write_json
from openmm_starmd.files.writing import replacing

REJECTED_FILE = "rejected.csv"


@dataclass(frozen=True)
class Rejection:
    """What was left out.

    Attributes
    ----------
    name : str
    replica : int or None
        None for the whole protein.
    reason : str
    """

    name: str
    replica: int | None
    reason: str


def described(source: Source, store: Path) -> bool:
    """Whether a protein's folder is there, with or without trajectories."""
    return (store / folder_name(source.name) / PROTEIN_FILE).is_file()


def open_for_writing(store: Path, settings: Settings) -> None:
    """Make the store or check that it was made with these settings."""
    path = store / STORE_FILE
    mine = {"format": FORMAT, "max_length": settings.max_length, "every": settings.every}
    if not path.is_file():
        if store.exists() and (
            not store.is_dir() or any(not path.name.startswith(".partial-") for path in store.iterdir())
        ):
            raise ValueError(f"{store} exists and is no store: choose another --output")
        store.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)
        return
    theirs = read_json(path)
    for name, option in (("every", "--every"), ("max_length", "--max-length")):
        if theirs.get(name) != mine[name]:
            raise ValueError(
                f"{store} was made with {option} {theirs.get(name) or 'left out'}, not {mine[name] or 'left out'}: "
                "give the same settings, or choose another --output"
            )


def missing_replicas(source: Source, store: Path, settings: Settings) -> list[int]:
    """Numbers of the replicas not yet converted; ValueError if what is there came from other files."""
    folder = store / folder_name(source.name)
    if not described(source, store) or source.topology is None:
        return [number for number, _ in source.replicas]
    protein = read_json(folder / PROTEIN_FILE)
    if protein["name"] != source.name:
        raise ValueError(f"{folder} holds {protein['name']}, not {source.name}: rename one of them")
    _same_file(folder, protein["source"], source.topology.identity())
    missing = []
    for number, file in source.replicas:
        path = folder / f"R{number}" / REPLICA_FILE
        if not path.is_file():
            missing.append(number)
            continue
        replica = read_json(path)
        _same_file(path.parent, replica["source"], file.identity())
        if replica["given_interval"] != settings.interval:
            raise ValueError(
                f"{path.parent} was made with --interval {replica['given_interval'] or 'left out'}, not "
                f"{settings.interval or 'left out'}: give the same, or delete the folder to convert it again"
            )
    return missing


def _same_file(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a ValueError unless two identities of :meth:`File.identity` are of one file."""
    if (before["size"], before["digest"]) != (now["size"], now["digest"]):
        raise ValueError(
            f"{folder} was made from another file than {now['file']} (then {before['file']}, {before['size']} bytes, "
            f"now {now['size']}): delete the folder to convert it again, or choose another --output"
        )


class RejectionTable:
    """``rejected.csv``, whole at any time: earlier runs' rows of other proteins, and this run's."""

    def __init__(self, store: Path, names: set[str]) -> None:
        self.path = store / REJECTED_FILE
        self.new: list[Rejection] = []
        self._earlier = []
        if self.path.is_file():
            with self.path.open(newline="") as file:
                self._earlier = [row for row in csv.reader(file) if len(row) == 3 and row[0] not in {"name"} | names]
        self._write()

    def add(self, rejection: Rejection) -> None:
        """Add a row to the file."""
        self.new.append(rejection)
        self._write()

    def _write(self) -> None:
        rows = self._earlier + [[r.name, str(r.replica or ""), r.reason] for r in self.new]
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([["name", "replica", "reason"], *rows])


def sweep(store: Path) -> None:
    """Remove what a killed run left half done."""
    for path in [*store.glob(".partial-*"), *store.glob("*/.partial-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
