"""The command ``openmm-starmd backmap``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openmm_starmd.cli.errors import clean_errors


class Target(StrEnum):
    """Atoms to write."""

    heavy = "heavy"
    all = "all"


class Geometry(StrEnum):
    """Where bond lengths and angles come from."""

    input = "input"
    ideal = "ideal"


def backmap(
    trajectory: Annotated[Path, typer.Argument(help="Frames of CA, backbone, heavy or all atoms, as a run writes.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Trajectory to write; its ending names the format.")
    ],
    topology: Annotated[
        Path | None,
        typer.Option(help="PDB or mmCIF file that the run was started from; else what its config.json names."),
    ] = None,
    to: Annotated[Target, typer.Option(help="Atoms to write.")] = Target.heavy,
    geometry: Annotated[Geometry, typer.Option(help="Bond lengths and angles of what is placed.")] = Geometry.input,
    minimize: Annotated[
        bool, typer.Option("--minimize", help="Minimise each frame in OBC2, N, CA and C held by springs.")
    ] = False,
    iterations: Annotated[int, typer.Option(min=0, help="Minimiser iterations a frame; 0: to convergence.")] = 100,
    stiffness: Annotated[float, typer.Option(min=0, help="Of the springs, kJ/mol/nm^2.")] = 1000.0,
    interval: Annotated[float | None, typer.Option(min=1e-6, help="ps between frames; else the file's own.")] = None,
    platform: Annotated[str | None, typer.Option(help="OpenMM platform of the minimisation.")] = None,
) -> None:
    """Give frames their side chains and hydrogens back.

    What frames have is kept; what they lack keeps the angles of the structure. Beside FILE, a PDB file of the first
    frame and a CSV file with a row per frame (clashes left, energies) are written under its stem. N and C of frames of
    CA alone are an estimate: minimise those.
    """
    with clean_errors():
        from tqdm import tqdm

        from openmm_starmd.atoms.trajectories import backmap_trajectory

        with tqdm(unit="frame", disable=None) as bar:

            def show(done: int) -> None:
                bar.update(done - bar.n)

            report = backmap_trajectory(
                trajectory,
                output,
                topology,
                to=to.value,
                geometry=geometry.value,
                minimize=minimize,
                iterations=iterations,
                stiffness=stiffness,
                interval=interval,
                platform=platform,
                progress=show,
            )
        typer.echo(f"{output}: {report.summary()}")
