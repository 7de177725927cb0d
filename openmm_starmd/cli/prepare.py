"""The command ``openmm-starmd prepare``: trajectories in, a store out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openmm_starmd.cli.errors import clean_errors


class Split(StrEnum):
    """Part of a data set."""

    train = "train"
    val = "val"
    test = "test"


def prepare(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="ATLAS folders or zip archives, folders of these, or topologies each followed by its trajectories.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="STORE", help="Folder of the store.")],
    split: Annotated[Path | None, typer.Option(help="CSV file with the columns name and split.")] = None,
    only: Annotated[Split | None, typer.Option(help="Split to convert; every name in the CSV file by default.")] = None,
    max_length: Annotated[int, typer.Option(min=3, help="Reject proteins with more residues.")] = 384,
    every: Annotated[
        float | None,
        typer.Option(metavar="PS", help="Keep a frame every so many ps, a multiple of the files' interval; else all."),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(metavar="PS", help="Time between the files' frames, for formats without times, or wrong ones."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Convert trajectories once to a compact store that training reads at random, without loading them.

    Run the same command again after a stop to go on. Chains that cannot be used are listed in STORE/rejected.csv with
    the reason, and the exit code is 1.
    """
    with clean_errors():
        from openmm_starmd.data import prepare as preparing
        from openmm_starmd.data.conversion import Settings
        from openmm_starmd.data.resume import REJECTED_FILE

        settings = Settings(max_length=max_length, every=every, interval=interval)
        chosen = only.value if only else None
        try:
            outcome = preparing.prepare(inputs, output, settings, split=split, only=chosen, workers=workers)
        except KeyboardInterrupt:
            typer.echo(f"stopped; the same command goes on with {output}", err=True)
            raise typer.Exit(130) from None
        already = f", {outcome.present} there already" if outcome.present else ""
        unwanted = f", {outcome.unwanted} proteins outside the split" if outcome.unwanted else ""
        typer.echo(f"{output}: {outcome.converted} trajectories ({outcome.frames} frames){already}{unwanted}")
    if outcome.rejected:
        for rejection in outcome.rejected[:20]:
            label = rejection.name if rejection.replica is None else f"{rejection.name} R{rejection.replica}"
            typer.echo(f"rejected {label}: {rejection.reason}", err=True)
        typer.echo(f"error: {len(outcome.rejected)} rejected, see {output / REJECTED_FILE}", err=True)
        raise typer.Exit(1)
