"""The log of a training run: one CSV file that a resumed run continues without a row missing or double."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from openmm_starmd.whole_files import write_text


class RunLog:
    """Rows of ``log.csv``, each written and flushed at once.

    A row holds full precision, so that two runs can be compared to the digit, and nothing of the clock.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        ``step`` is put in front of them.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, ["step", *columns]

    def begin(self, step: int) -> None:
        """Keep the rows up to `step`, drop later ones and a torn last line; start the file if there is none."""
        rows = []
        if step > 0 and self.path.exists():
            # a kill in mid-write leaves a last line without its end
            lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if not lines or next(csv.reader(lines[:1])) != self.columns:
                raise ValueError(
                    f"{self.path} is not the log of this run: its columns are not {', '.join(self.columns)}"
                )
            rows = [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
        write_text(self.path, ",".join(self.columns) + "\n" + "".join(rows))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; columns without a value stay empty."""
        row = [str(step), *(repr(values[name]) if name in values else "" for name in self.columns[1:])]
        with open(self.path, "a") as file:
            file.write(",".join(row) + "\n")
