"""The command ``openmm-starmd make-data``: classical MD for training and comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_starmd.cli.errors import clean_errors


def make_data(
    structures: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="PDB or mmCIF files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Root of the tree to write.")],
    duration: Annotated[float, typer.Option(help="Picoseconds per replica, in total.")] = 40.0,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas per protein.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 1,
) -> None:
    """Make classical MD with OpenMM in ATLAS layout: amber14, OBC2, 300 K, a frame every ps.

    Run the same command again after a stop to go on, or with a longer duration to extend what is there.
    """
    with clean_errors():
        from openmm_starmd.classical import many

        failed = many.make_data(structures, output, duration, replicas, workers=workers, report=typer.echo)
    if failed:
        typer.echo(f"error: {len(failed)} failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
