"""The command ``openmm-starmd make-data``: classical MD for training and comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_starmd.cli.errors import clean_errors


def make_data(
    structures: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="PDB or mmCIF files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Root of the tree to write.")],
    duration: Annotated[float, typer.Option(min=0, help="Picoseconds per replica, in total.")] = 40.0,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas per protein.")] = 1,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="Processes, one thread each; with --together, for preparation, and threads of the CPU platform."
        ),
    ] = 1,
    interval: Annotated[float, typer.Option(help="Picoseconds between frames.")] = 1.0,
    fine: Annotated[
        float,
        typer.Option(
            min=0, help="Picoseconds at the start of each run of which 1-ps frames are written to OUTPUT/fine/ as well."
        ),
    ] = 0.0,
    cutoff: Annotated[
        float | None, typer.Option(help="Cutoff in nm; none by default, and 3 with --together, which needs one.")
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Only add hydrogens and minimise; as --duration 0.")
    ] = False,
    together: Annotated[
        bool, typer.Option("--together", help="All proteins in one OpenMM Context, far apart: what a GPU is good at.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="With --together: stop after so many seconds of MD, everything saved.")
    ] = None,
    platform: Annotated[
        str | None, typer.Option(help="With --together: OpenMM platform (CUDA, ...); the fastest by default.")
    ] = None,
    per_context: Annotated[
        int | None,
        typer.Option(min=1, help="With --together: most runs in one Context; as many as have room by default."),
    ] = None,
) -> None:
    """Make classical MD with OpenMM in ATLAS layout: amber14, OBC2, 300 K, a frame every ps.

    Run the same command again after a stop to go on, or with a longer duration (or more seconds) to extend what is
    there. Models that are there already (NAME/NAME.model.pdb) are used as they are, so that --prepare-only may be run
    on another machine.
    """
    with clean_errors():
        from openmm_starmd.classical.many import make_data as make_each
        from openmm_starmd.classical.replicas import Protocol
        from openmm_starmd.classical.together import make_data_together

        alone = {"--seconds": seconds, "--platform": platform, "--per-context": per_context}
        given = [name for name, value in alone.items() if value is not None]
        if given and not together:
            raise ValueError(f"{', '.join(given)} goes with --together only")
        protocol = Protocol(interval=interval, fine=fine, cutoff=cutoff)
        length = 0.0 if prepare_only else duration
        if together:
            failed = make_data_together(
                structures,
                output,
                length,
                seconds=seconds,
                replicas=replicas,
                platform=platform,
                workers=workers,
                per_context=per_context,
                protocol=protocol,
                report=typer.echo,
            )
        else:
            failed = make_each(
                structures, output, length, replicas, workers=workers, protocol=protocol, report=typer.echo
            )
    if failed:
        typer.echo(f"error: {len(failed)} failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
