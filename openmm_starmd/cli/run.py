"""The command ``openmm-starmd run``: frames of a protein into a directory."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openmm_starmd.cli.errors import clean_errors


class Atoms(StrEnum):
    """Which atoms frames have."""

    ca = "ca"
    backbone = "backbone"
    heavy = "heavy"


class Format(StrEnum):
    """Trajectory format."""

    dcd = "dcd"
    xtc = "xtc"


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
    calibrate: Annotated[
        float | None,
        typer.Option(
            metavar="PS",
            help="Fit how widely the protein moves to so many ps of classical MD first, 20 say; for weights with an "
            "elastic prior.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR, if there is one.")] = False,
) -> None:
    """Draw frames of a protein: trajectory, topology, log, checkpoint, summary and picture.

    A run that was stopped or killed goes on with --resume, to the very frames of an unbroken one. Global translation
    and rotation are removed: each frame is superposed on the one before.
    """
    with clean_errors():
        from openmm_starmd import running

        settings = running.RunSettings(
            stride=stride,
            seed=seed,
            atoms=atoms.value if atoms else None,
            weights=weights,
            steps=steps,
            format=format.value if format else None,
            calibrate=calibrate,
        )
        outcome = running.run(
            structure,
            frames,
            output,
            settings,
            device=device,
            resume=resume,
            on_calibration=lambda found: typer.echo(str(found).strip("<>")),
        )
        if outcome.interrupted:
            typer.echo(f"stopped at frame {outcome.frames} of {frames}; --resume goes on", err=True)
            raise typer.Exit(130)
        summary = json.loads((output / "summary.json").read_text())
        rmsd, gyration = summary["rmsd_to_start_nm"]["mean"], summary["radius_of_gyration_nm"]["mean"]
        speed = "" if math.isnan(outcome.speed) else f", {outcome.speed:.0f} ns/day"
        typer.echo(
            f"{output}: {summary['frames']} frames, {summary['length_ps']:g} ps{speed}; "
            f"{100 * summary['valid_fraction']:.1f} % valid, RMSD to start {10 * rmsd:.2f} Å, Rg {10 * gyration:.2f} Å"
        )
