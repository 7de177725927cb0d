"""The command ``openmm-starmd``. Heavy imports stand inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="openmm-starmd",
    help="STAR-MD: protein dynamics drawn frame by frame by a learned model, in OpenMM's own Simulation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Atoms(str, Enum):
    """Which atoms frames have."""

    ca = "ca"
    backbone = "backbone"
    heavy = "heavy"


class Format(str, Enum):
    """Trajectory format."""

    dcd = "dcd"
    xtc = "xtc"


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


@contextmanager
def clean_errors() -> Iterator[None]:
    """Turn what a user can put right into one line and exit code 2, and warnings into one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            yield
        except (ValueError, OSError, ImportError) as error:
            _fail(error)


def _fail(error: BaseException) -> NoReturn:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(2) from error


@app.command()
def run(
    structure: Annotated[Path, typer.Argument(metavar="INPUT", help="PDB or mmCIF file with a protein in it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write to.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames in all.")] = 100,
    stride: Annotated[float | None, typer.Option(help="Time between frames, ps; the weights' default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed; 0 by default.")] = None,
    atoms: Annotated[Atoms | None, typer.Option(help="Atoms of a frame; the most that the weights know.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Bundled name, directory, safetensors file or hf:ORGANISATION/NAME; bundled by default."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, ...; a GPU where there is one."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Denoising steps per frame; the weights' own by default."),
    ] = None,
    format: Annotated[Format | None, typer.Option(help="Trajectory format; dcd by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR, if there is one.")] = False,
) -> None:
    """Draw frames of a protein: trajectory, topology, log, checkpoint, summary and picture.

    A run that was stopped or killed goes on with --resume, to the very frames of an unbroken one. Global translation
    and rotation are removed: each frame is superposed on the one before.
    """
    with clean_errors():
        from openmm_starmd import running
        from openmm_starmd.run_config import Settings

        settings = Settings(
            stride=stride,
            seed=seed,
            atoms=atoms.value if atoms else None,
            weights=weights,
            steps=steps,
            format=format.value if format else None,
        )
        outcome = running.run(structure, frames, output, settings, device=device, resume=resume)
        if outcome.interrupted:
            typer.echo(f"stopped at frame {outcome.frames} of {frames}; --resume goes on", err=True)
            raise typer.Exit(130)
        summary = json.loads((output / "summary.json").read_text())
        rmsd, gyration = summary["rmsd_to_start_nm"]["mean"], summary["radius_of_gyration_nm"]["mean"]
        speed = f", {outcome.speed:.0f} ns/day" if outcome.speed == outcome.speed else ""
        typer.echo(
            f"{output}: {summary['frames']} frames, {summary['length_ps']:g} ps{speed}; "
            f"{100 * summary['valid_fraction']:.1f} % valid, RMSD to start {10 * rmsd:.2f} Å, Rg {10 * gyration:.2f} Å"
        )


@app.command("make-data")
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
        from openmm_starmd.data import many

        failed = many.make_data(structures, output, duration, replicas, workers=workers, report=typer.echo)
    if failed:
        typer.echo(f"error: {len(failed)} failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


@app.command()
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
        from openmm_starmd.analysis import picture

        config = trajectory.parent / "config.json"
        if interval is None and config.exists():
            interval = json.loads(config.read_text()).get("stride")
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

    from openmm_starmd.analysis.files import check_atoms, load_structure

    start = load_structure(topology)
    check_atoms(trajectory, start.topology, topology)
    try:
        return mdtraj.load(str(trajectory), top=start.topology), start
    except Exception as error:
        # mdtraj's readers raise whatever the damage happens to cause
        raise ValueError(f"{trajectory} cannot be read: {type(error).__name__}: {error}") from error


# registered here so that the command stands with what it runs
from openmm_starmd.analysis.commands import evaluate  # noqa: E402

app.command()(evaluate)

from openmm_starmd.training.commands import train  # noqa: E402

app.command()(train)

from openmm_starmd.tools.weights_commands import weights_app  # noqa: E402

app.add_typer(weights_app)

from openmm_starmd.data.commands import prepare  # noqa: E402

app.command()(prepare)

from openmm_starmd.atoms.command import backmap  # noqa: E402

app.command()(backmap)

if __name__ == "__main__":
    sys.exit(app())
