"""The log of a policy: JSON lines that are cut back to the checkpoint they belong to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from openmm_starmd.files.cutting import cut_lines, whole_lines
from openmm_starmd.files.writing import write_text


class Log:
    """JSON lines, the first of which is the plan, and the path of a checkpoint beside them.

    Parameters
    ----------
    path : path
        Need not exist.

    Attributes
    ----------
    path : Path
    checkpoint : Path
        ``run.chk`` for ``run.jsonl``.
    first_step : int
        Step count of the simulation where the plan began; known once :meth:`begin` or :meth:`resume` was called.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.suffix == ".chk":
            raise ValueError(f"the log is {str(path)!r}, the name its checkpoint would have: choose another ending")
        self.checkpoint = self.path.with_suffix(".chk")
        self.first_step = 0
        self._file: IO[str] | None = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self, plan: dict[str, Any]) -> bool:
        """Start with `plan`; False if a log of the same plan was there that never reached a checkpoint."""
        there = self.path.exists()
        if there:
            self._require(plan, self._read())
        self.first_step = plan["first_step"]
        self.close()
        write_text(self.path, json.dumps(plan) + "\n")
        return not there

    def known_steps(self, plan: dict[str, Any]) -> set[int]:
        """Step counts at which a run of `plan` may be gone on with; a ValueError if the log is of another one."""
        lines = self._read()
        self._require(plan, lines)
        return {lines[0]["first_step"], *(line["step"] for line in lines[1:])}

    def resume(self, step: int, draws: int) -> list[dict[str, Any]]:
        """Cut the log back to the decision that a checkpoint was saved after.

        Parameters
        ----------
        step, draws : int
            Of the simulation that loaded it.

        Returns
        -------
        list of dict
            The decisions kept, the plan left out.
        """
        lines = self._read()
        ends = [i for i, line in enumerate(lines) if i and (line["step"], line["draws"]) == (step, draws)]
        if not ends:
            raise ValueError(
                f"{self.checkpoint} is at step {step}, which {self.path} does not know: they do not belong together. "
                "Restore the pair, or begin with another log"
            )
        self.first_step = lines[0]["first_step"]
        self.close()
        cut_lines(self.path, ends[-1] + 1)
        return lines[1 : ends[-1] + 1]

    def append(self, line: dict[str, Any]) -> None:
        """Write one line, to the disk."""
        if self._file is None:
            self._file = self.path.open("a")
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> list[dict[str, Any]]:
        """The lines; one that a kill tore is left out."""
        if not self.path.exists():
            raise ValueError(f"{self.checkpoint} is there, but its log {self.path} is not: restore it, or move it away")
        try:
            lines = [json.loads(line) for line in whole_lines(self.path)]
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path} is no log of a policy: {error}") from error
        if not lines or not isinstance(lines[0], dict) or lines[0].get("event") != "plan":
            raise ValueError(f"{self.path} is no log of a policy: its first line is no plan. Choose another log")
        return lines

    def _require(self, plan: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        # where it began and its seed are the log's to say
        free = ("first_step", "seed")
        wrong = [name for name in plan if name not in free and lines[0].get(name) != plan[name]]
        if wrong:
            was = ", ".join(f"{name} {lines[0].get(name)!r} (now {plan[name]!r})" for name in wrong)
            raise ValueError(f"{self.path} is the log of another run, with {was}: choose another log")
