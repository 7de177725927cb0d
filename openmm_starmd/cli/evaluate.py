"""The command ``openmm-starmd evaluate``: files in, table, JSON and report out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_starmd.cli.errors import clean_errors

if TYPE_CHECKING:
    import mdtraj
    import numpy as np
    from numpy.typing import NDArray

    from openmm_starmd.evaluation.evaluate import Evaluation
    from openmm_starmd.evaluation.metrics import Settings
    from openmm_starmd.evaluation.runs import Run


def evaluate(
    reference: Annotated[
        list[Path],
        typer.Argument(metavar="REFERENCE...", help="MD trajectories; the first is the reference, others the ceiling."),
    ],
    generated: Annotated[list[Path], typer.Option(metavar="X", help="Trajectory to judge; may be given again.")],
    topology: Annotated[Path, typer.Option(help="PDB file with the references' atoms, the start structure.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write to.")],
    generated_topology: Annotated[
        Path | None,
        typer.Option(help="PDB file with the atoms of X; else topology.pdb beside X, else --topology."),
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="Time between the references' frames, ps; the files' own by default.")
    ] = None,
    generated_interval: Annotated[
        float | None,
        typer.Option(help="The same of X; else the stride in config.json beside X, else the file's own."),
    ] = None,
    bins: Annotated[int, typer.Option(min=1, help="Histogram bins per dimension.")] = 10,
    dimensions: Annotated[int, typer.Option(min=1, max=4, help="Principal components of the histogram.")] = 2,
    frames: Annotated[int | None, typer.Option(min=2, help="Compare at most so many frames.")] = None,
) -> None:
    """Judge trajectories against MD: validity, coverage, dynamics, flexibility.

    Writes evaluation.json, table.md and report.html (one file, no network needed). All trajectories are thinned to the
    coarsest stride and cut to the shortest span first. A frozen structure and an elastic network are in the table as
    floors.
    """
    with clean_errors():
        from openmm_starmd.evaluation.metrics import Settings

        settings = Settings(bins=bins, dimensions=dimensions, frames=frames)
        outcome = evaluate_files(
            reference,
            generated,
            topology,
            output,
            generated_topology=generated_topology,
            intervals=(interval, generated_interval),
            settings=settings,
        )
        typer.echo(outcome.table())
        typer.echo(f"\n{output / 'report.html'}")


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

    from openmm_starmd.analysis.validity import bonded_neighbours
    from openmm_starmd.evaluation import evaluate as evaluation
    from openmm_starmd.evaluation.from_files import load_structure
    from openmm_starmd.evaluation.report import write_report

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
        config = path.parent / "config.json"
        if stride is None and drawn and config.is_file():
            stride = json.loads(config.read_text()).get("stride")
        runs.append(_read(path, own, labels[place], stride, bonded))
    outcome = evaluation.evaluate(runs[: len(references)], runs[len(references) :], settings)
    output.mkdir(parents=True, exist_ok=True)
    outcome.write_json(output / "evaluation.json")
    (output / "table.md").write_text(outcome.table() + "\n", encoding="utf-8")
    write_report(outcome, output / "report.html", f"{topology.stem}: {', '.join(labels[len(references) :])}")
    return outcome


def _read(path: Path, topology: Path, label: str, stride: float | None, bonded: NDArray[np.bool_]) -> Run:
    """A trajectory file, reduced: heavy atoms of its protein only, a thousand frames at a time."""
    import mdtraj

    from openmm_starmd.evaluation.from_files import check_atoms, load_structure
    from openmm_starmd.evaluation.runs import joined, reduce

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
    from openmm_starmd.analysis.matching import stride_of

    return earlier[0].stride if earlier else stride_of(part)


def _labels(paths: list[Path]) -> list[str]:
    """Names of the files; where two would be the same, with their directories."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}/{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]
