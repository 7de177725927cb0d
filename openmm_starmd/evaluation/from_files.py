"""Trajectories on disk: reading those that users name, with errors they can act on, and evaluating them."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.matching import stride_of
from openmm_starmd.analysis.validity import bonded_neighbours
from openmm_starmd.evaluation.evaluate import Evaluation, evaluate
from openmm_starmd.evaluation.metrics import Settings
from openmm_starmd.evaluation.report import write_report
from openmm_starmd.evaluation.runs import Run, joined, reduce
from openmm_starmd.files.reading import load_frames
from openmm_starmd.files.writing import write_text


def load_structure(path: Path) -> mdtraj.Trajectory:
    """First frame of a structure file, or a ValueError that says it cannot be read."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return load_frames(path)[0]
    except Exception as error:
        # mdtraj's readers raise whatever the damage happens to cause
        raise ValueError(f"{path} cannot be read as a structure: {type(error).__name__}: {error}") from error


def check_atoms(path: Path, topology: mdtraj.Topology, named: Path) -> None:
    """Raise a ValueError unless a trajectory can be read and has as many atoms as its topology.

    Readers that pick atoms by index do not compare the numbers and would hand out nonsense.

    Parameters
    ----------
    path : Path
        Trajectory.
    topology : mdtraj.Topology
    named : Path
        File the topology came from, for the message.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix.lower() not in (".dcd", ".xtc", ".trr", ".nc", ".h5"):
        return
    try:
        with mdtraj.open(str(path)) as file:
            first = file.read(1)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a trajectory: {type(error).__name__}: {error}") from error
    xyz = first[0] if isinstance(first, tuple) and not hasattr(first, "coordinates") else first.coordinates
    if xyz.shape[-2] != topology.n_atoms:
        raise ValueError(
            f"{path} has {xyz.shape[-2]} atoms and its topology {named} has {topology.n_atoms}: name the PDB file the "
            "trajectory was written with"
        )


def stride_beside(trajectory: Path) -> float | None:
    """Stride, ps, in the ``config.json`` beside a trajectory of a run; None where there is none."""
    config = trajectory.parent / "config.json"
    return json.loads(config.read_text()).get("stride") if config.is_file() else None


def evaluate_files(
    references: list[Path],
    generated: list[Path],
    topology: Path,
    output: Path,
    *,
    generated_topology: Path | None = None,
    intervals: tuple[float | None, float | None] = (None, None),
    settings: Settings | None = None,
) -> Evaluation:
    """Evaluate trajectories on disk, one in memory at a time.

    Parameters
    ----------
    references, generated : list of path
    topology : path
        With the references' atoms.
    output : path
        Directory for ``evaluation.json``, ``table.md`` and ``report.html``.
    generated_topology : path, optional
        With the atoms of `generated`; else ``topology.pdb`` beside each, else `topology`.
    intervals : (float or None, float or None)
        ps between frames of references and generated; else the stride of the run's ``config.json``, else the file's.
    settings : Settings, optional

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If a file is missing or does not fit its topology, or the trajectories cannot be compared.
    """
    for path in (*references, *generated, topology, *([generated_topology] if generated_topology else [])):
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
    start = load_structure(topology)
    start = start.atom_slice(start.topology.select("protein"))
    bonded = bonded_neighbours(start)
    labels = _labels([*references, *generated])
    runs: list[Run] = []
    for place, path in enumerate((*references, *generated)):
        drawn = place >= len(references)
        beside = path.parent / "topology.pdb"
        own = (generated_topology or (beside if beside.is_file() else topology)) if drawn else topology
        stride = intervals[drawn]
        if stride is None and drawn:
            stride = stride_beside(path)
        runs.append(_read(path, own, labels[place], stride, bonded))
    outcome = evaluate(runs[: len(references)], runs[len(references) :], settings)
    output.mkdir(parents=True, exist_ok=True)
    outcome.write_json(output / "evaluation.json")
    write_text(output / "table.md", outcome.table() + "\n")
    write_report(outcome, output / "report.html", f"{topology.stem}: {', '.join(labels[len(references) :])}")
    return outcome


def _read(path: Path, topology: Path, label: str, stride: float | None, bonded: NDArray[np.bool_]) -> Run:
    """A trajectory file, reduced: heavy atoms of its protein only, a thousand frames at a time."""
    structure = load_structure(topology).topology
    check_atoms(path, structure, topology)
    heavy = structure.select("protein and not element H")
    parts: list[Run] = []
    try:
        stream = mdtraj.iterload(str(path), chunk=1000, top=structure, atom_indices=heavy)
        for part in stream:
            parts.append(reduce(part, label, stride=stride or _interval(part, parts), bonded=bonded))
    except Exception as error:
        # mdtraj's readers raise whatever the damage happens to cause
        raise ValueError(f"{path} with the topology {topology}: {type(error).__name__}: {error}") from error
    if not parts:
        raise ValueError(f"{path} has no frames")
    return joined(parts)


def _interval(part: mdtraj.Trajectory, earlier: list[Run]) -> float:
    """Stride of a chunk: that of the first chunk, which has more than one frame."""
    return earlier[0].stride if earlier else stride_of(part)


def _labels(paths: list[Path]) -> list[str]:
    """Names of the files; where two would be the same, with their directories."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}/{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]
