"""The command ``openmm-starmd evaluate``: files in, table, JSON and report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_starmd.cli.errors import clean_errors


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
        from openmm_starmd.evaluation.from_files import evaluate_files
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
