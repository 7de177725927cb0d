"""Count the files a reader visits on three walks through the code: where a call goes from the API to its result.

    python -m benchmarks.derive.walks
    PYTHONPATH=OLD_CHECKOUT python benchmarks/derive/walks.py    # of another checkout

Counted are the files of the package in which a function runs, in the order in which they are first entered. Left out
are those that a reader takes for granted: the network and the diffusion, which the walks pass by, geometry, units,
errors and random numbers. Villin, the default weights, Reference platform.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from openmm import app

import openmm_starmd
from openmm_starmd import StarMDSimulation

PACKAGE = Path(openmm_starmd.__file__).parent
PASSED_BY = ("model", "diffusion", "geometry", "quantities.py", "errors.py", "randomness.py")


def walk(action: Callable[[], Any], end: str | None = None) -> list[str]:
    """Files of the package that run during a call, in order.

    Parameters
    ----------
    action : callable
    end : str, optional
        Name of the function at whose first call the walk ends.

    Returns
    -------
    list of str
        Relative to the package.
    """
    visited: list[str] = []
    arrived = False

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal arrived
        path = Path(frame.f_code.co_filename)
        if arrived or event != "call" or frame.f_code.co_name == "<module>" or not path.is_relative_to(PACKAGE):
            return
        name = str(path.relative_to(PACKAGE))
        if name not in visited and Path(name).parts[0] not in PASSED_BY:
            visited.append(name)
        arrived = frame.f_code.co_name == end

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return visited


def main() -> None:
    """Print the three walks."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore")
    path = Path(app.__file__).parent / "data" / "test.pdb"
    pdb = app.PDBFile(str(path))
    simulation = StarMDSimulation(pdb.topology, pdb.positions, seed=1)
    simulation.step(2)
    simulation.validate(0.0, minimize=1, platform="Reference")
    walks = {
        "StarMDSimulation(topology, positions) to rigids": walk(
            lambda: StarMDSimulation(pdb.topology, pdb.positions, seed=1), "rigids_from_backbone"
        ),
        "step() to the committed frame": walk(lambda: simulation.step(1)),
        "validate() to the Verdict": walk(lambda: simulation.validate(0.2, minimize=2, platform="Reference")),
    }
    for what, files in walks.items():
        print(f"{len(files):3d}  {what}: {', '.join(files)}")


if __name__ == "__main__":
    main()
