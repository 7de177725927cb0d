"""The command ``openmm-starmd``. Heavy imports stand inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from openmm_starmd.cli.backmap import backmap
from openmm_starmd.cli.evaluate import evaluate
from openmm_starmd.cli.make_data import make_data
from openmm_starmd.cli.plot import plot
from openmm_starmd.cli.prepare import prepare
from openmm_starmd.cli.run import run
from openmm_starmd.cli.train import train
from openmm_starmd.cli.weights import weights_app

app = typer.Typer(
    name="openmm-starmd",
    help="STAR-MD: protein dynamics drawn frame by frame by a learned model, in OpenMM's own Simulation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command("make-data")(make_data)
app.command()(plot)
app.command()(evaluate)
app.command()(train)
app.add_typer(weights_app)
app.command()(prepare)
app.command()(backmap)


def _version(wanted: bool) -> None:
    if wanted:
        import openmm_starmd

        typer.echo(openmm_starmd.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """STAR-MD: protein dynamics drawn frame by frame by a learned model, in OpenMM's own Simulation."""
