"""The table of the MD that is kept: benchmarks/data/training/README.md, and the pool's.

    python -m benchmarks.derive.kept_md training --machine "one CPU core, OpenMM 8.6.1"   # where new rows were made
    python -m benchmarks.derive.kept_md training --check

Residues, replicas, picoseconds and intervals are read from the files. What is said of the machine is kept from the
table that is there; proteins that are new in it get ``--machine``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import mdtraj

from benchmarks.lib.paths import DATA
from benchmarks.lib.published_results import markdown
from benchmarks.lib.results_page import write_block
from openmm_starmd.analysis.validity import alpha_carbons

LIMIT_MB = 100
BLOCK = "md"
HEADINGS = ("protein", "residues", "ps", "frames every (ps)", "machine")


@dataclass(frozen=True)
class Kept:
    """MD of one protein in a folder in ATLAS layout.

    Attributes
    ----------
    name : str
    residues : int
    picoseconds, intervals : tuple of float
        Of each replica: its last frame's time and the time between frames.
    """

    name: str
    residues: int
    picoseconds: tuple[float, ...]
    intervals: tuple[float, ...]

    @classmethod
    def of(cls, folder: Path) -> Kept:
        """What lies in ``folder/NAME.pdb`` and ``folder/NAME_prod_R*_fit.xtc``."""
        residues = len(alpha_carbons(mdtraj.load(str(folder / f"{folder.name}.pdb")).topology))
        times = []
        for path in sorted(folder.glob(f"{folder.name}_prod_R*_fit.xtc")):
            with mdtraj.formats.XTCTrajectoryFile(str(path)) as file:
                times.append(file.read()[1])
        if not times or min(map(len, times)) < 2:
            raise ValueError(f"{folder} has no trajectory of at least two frames; finish it or take it away")
        last = tuple(round(float(time[-1]), 3) for time in times)
        return cls(folder.name, residues, last, tuple(round(float(time[1] - time[0]), 3) for time in times))

    def row(self, machine: str) -> list[str]:
        """Its row of the table."""
        ps = " + ".join(f"{value:g}" for value in self.picoseconds)
        return [self.name, str(self.residues), ps, " + ".join(f"{x:g}" for x in dict.fromkeys(self.intervals)), machine]


def kept(folder: Path) -> list[Kept]:
    """All proteins of a folder, by name."""
    return [Kept.of(path) for path in sorted(folder.iterdir()) if (path / f"{path.name}.pdb").is_file()]


def megabytes(folder: Path) -> float:
    """Size of all files below a folder, MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def machines(readme: Path) -> dict[str, str]:
    """What the table of a README says of the machine, by protein."""
    lines = readme.read_text().splitlines() if readme.is_file() else []
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[-1] for row in cells if len(row) == len(HEADINGS) and row[1].isdigit()}


def table(folder: Path, machine: str | None = None) -> str:
    """Markdown of a folder's MD.

    Raises
    ------
    ValueError
        If a protein has no machine in the table that is there and none is given; or if there is too much of it.
    """
    known, rows, total = machines(folder / "README.md"), [], 0.0
    for each in kept(folder):
        made_on = known.get(each.name, machine)
        if made_on is None:
            raise ValueError(f"{each.name} is not in the table of {folder}; say with --machine where it was made")
        rows.append(each.row(made_on))
        total += sum(each.picoseconds)
    if megabytes(folder) > LIMIT_MB:
        raise ValueError(f"{folder} has {megabytes(folder):.0f} MB; at most {LIMIT_MB} are kept")
    return f"{len(rows)} proteins, {total / 1000:.2f} ns.\n\n{markdown(HEADINGS, rows)}"


def main() -> None:
    """Write the table of one folder, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", choices=("training", "pool"))
    parser.add_argument("--machine", help="where proteins that are new in the table were made")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    folder = DATA / arguments.folder
    text = table(folder, arguments.machine)
    if not arguments.check:
        write_block(folder / "README.md", BLOCK, text)
    elif text not in (folder / "README.md").read_text():
        sys.exit(f"the table of {folder / 'README.md'} is not what lies there")
    print(text + f"\n\n{megabytes(folder):.1f} of {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
