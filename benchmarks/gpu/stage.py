"""What the modules of stages share: their arguments, and where things lie in bundle and work folder."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lib.paths import DATA


@dataclass(frozen=True)
class Given:
    """What a stage is given.

    Attributes
    ----------
    bundle, output, work : Path
    device : str
    seconds : float
        To end within.
    options : dict
    deadline : float
        The same by ``time.monotonic()``.
    """

    bundle: Path
    output: Path
    work: Path
    device: str
    seconds: float
    options: dict[str, Any]
    deadline: float

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()

    @property
    def platform(self) -> str:
        """OpenMM's name of the device."""
        return "CUDA" if self.device == "cuda" else "CPU"


def read_arguments(description: str, **defaults: Any) -> Given:
    """Arguments of a stage; `defaults` are the settings it has, and no others are allowed."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "output", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--options", type=json.loads, default={}, help="settings, as JSON")
    arguments = parser.parse_args()
    unknown = set(arguments.options) - set(defaults)
    if unknown:
        parser.error(f"unknown settings {', '.join(sorted(unknown))}: there are {', '.join(sorted(defaults))}")
    options = defaults | arguments.options
    places = [path.resolve() for path in (arguments.bundle, arguments.output, arguments.work)]
    return Given(*places, arguments.device, arguments.seconds, options, began + arguments.seconds)


def never_trained_on() -> list[str]:
    """Held-out proteins and their near copies, the left-out ones of the pool, and the kin of both."""
    split = json.loads((DATA / "split.json").read_text())
    names = [item["name"] for group in ("choose", "report", "also_left_out") for item in split[group]]
    forbidden = split["not_to_be_trained_on"]
    names += [*forbidden["compared"], *(item["name"] for item in forbidden["kin"])]
    return list(dict.fromkeys(names))


def made_here(work: Path) -> Path:
    """The tree of MD that the stage `together` makes."""
    return work / "md"


def training_folders(bundle: Path, work: Path) -> list[Path]:
    """Folders of MD to train on that are there: carried, of the repository, and made on this machine."""
    made = made_here(work)
    folders = [bundle / "stores" / "md", bundle / "stores" / "md200", DATA / "training", made, made / "fine"]
    return [folder for folder in folders if any(folder.glob("*/*_fit.xtc"))]
