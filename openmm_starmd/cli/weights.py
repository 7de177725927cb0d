"""The commands ``openmm-starmd weights inspect``, ``verify`` and ``convert``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openmm_starmd.cli.errors import clean_errors

weights_app = typer.Typer(
    name="weights", help="Inspect, verify and convert weights.", no_args_is_help=True, add_completion=False
)

Weights = Annotated[
    str,
    typer.Argument(metavar="WEIGHTS", help="Bundled name, directory, safetensors file, or hf:ORGANISATION/NAME."),
]


class Storage(StrEnum):
    """What numbers are stored in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@weights_app.command()
def inspect(weights: Weights) -> None:
    """Print what weights say of themselves: form, sizes, strides, training data, checksum."""
    with clean_errors():
        from openmm_starmd.release import checks

        for line in checks.inspect(weights).lines():
            typer.echo(line)


@weights_app.command()
def verify(
    weights: Weights,
    frames: Annotated[int, typer.Option(min=1, help="Frames of villin to draw.")] = 5,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(metavar="STRUCTURE", help="PDB or mmCIF of a protein that must not be near the training data."),
    ] = None,
) -> None:
    """Check weights: files, numbers, a short rollout, distance of training data from held-out proteins.

    Exit code 0 if nothing failed, 1 if something did, 2 if there are no such weights.
    """
    failed = 0
    with clean_errors():
        from openmm_starmd.files.reading import structure_name
        from openmm_starmd.release import checks

        sequences = {structure_name(path): _sequence(path) for path in held_out or []}
        for check in checks.verify(weights, frames=frames, held_out=sequences):
            typer.echo(str(check))
            failed += check.ok is False
    if failed:
        raise typer.Exit(1)


@weights_app.command()
def convert(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Weights as above, the folder RUN of a training run, or one of its .ckpt files."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="New directory.")],
    dtype: Annotated[Storage, typer.Option(help="What numbers are stored in; loading gives float32.")] = (
        Storage.float32
    ),
    name: Annotated[str | None, typer.Option(help="Name of the new weights.")] = None,
) -> None:
    """Write a weights directory: safetensors, configuration, list of training data, card to be completed."""
    with clean_errors():
        from openmm_starmd.release import conversion

        typer.echo(conversion.convert(weights, output, dtype=dtype.value, name=name))


def _sequence(path: Path) -> str:
    """Sequence of the protein in a structure file, chains joined."""
    from openmm_starmd.files.reading import read_structure
    from openmm_starmd.protein.protein import Protein

    structure = read_structure(path)
    return Protein.from_openmm(structure.topology, structure.positions).sequence.replace("/", "")
