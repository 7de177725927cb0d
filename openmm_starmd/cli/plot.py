"""The command ``openmm-starmd plot``: a picture of a trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openmm_starmd.cli.errors import clean_errors


def plot(
    trajectory: Annotated[Path, typer.Argument(help="DCD, XTC or any format of mdtraj.")],
    topology: Annotated[Path, typer.Option(help="PDB file of the start structure, with the trajectory's atoms.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("picture.png"),
    reference: Annotated[Path | None, typer.Option(help="MD trajectory of the same protein, drawn over it.")] = None,
    reference_topology: Annotated[
        Path | None,
        typer.Option(help="PDB file of the reference's atoms; --topology by default."),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(min=1e-6, help="ps between frames; else that of the run's config.json, else the file's own."),
    ] = None,
) -> None:
    """Draw RMSD to start, radius of gyration, RMSF per residue and the share of valid frames."""
    with clean_errors():
        from openmm_starmd.evaluation import picture
        from openmm_starmd.evaluation.from_files import stride_beside

        if interval is None:
            interval = stride_beside(trajectory)
        figures = picture.figures(*_load(trajectory, topology), interval)
        over = None
        if reference is not None:
            over = picture.figures(*_load(reference, reference_topology or topology))
            if len(over["residue"]) != len(figures["residue"]):
                raise ValueError(
                    f"{trajectory} has {len(figures['residue'])} residues and {reference} {len(over['residue'])}: the "
                    "reference must be of the same protein"
                )
        typer.echo(picture.draw(output, figures, over))


def _load(trajectory: Path, topology: Path) -> tuple[Any, Any]:
    """Trajectory and start structure, or a ValueError."""
    import mdtraj

    from openmm_starmd.evaluation.from_files import check_atoms, load_structure

    start = load_structure(topology)
    check_atoms(trajectory, start.topology, topology)
    try:
        return mdtraj.load(str(trajectory), top=start.topology), start
    except Exception as error:
        # mdtraj's readers raise whatever the damage happens to cause
        raise ValueError(f"{trajectory} cannot be read: {type(error).__name__}: {error}") from error
