"""What a verdict holds, and how it is printed, saved and drawn."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from openmm_starmd.files.writing import write_text

STATUSES = ("pass", "strained", "broken")


@dataclass(frozen=True)
class Finding:
    """One reason for a status.

    Attributes
    ----------
    kind : str
        A kind of :class:`openmm_starmd.analysis.defects.Defect`, or refused, energy, moved, drift, fold, temperature.
    grave : bool
        Whether it alone makes the frame broken; else strained.
    text : str
        What was found, where, against which limit.
    residues : tuple of str
        Labels of the residues concerned, the worst first; empty where none stands out.
    """

    kind: str
    grave: bool
    text: str
    residues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Geometry:
    """Counts of one frame's defects, as :mod:`openmm_starmd.analysis.defects` defines them.

    Attributes
    ----------
    bonds, chirality, peptides, clashes, outliers : int
        Bonds off their length (broken chains included), wrong hands, twisted peptides, pairs of residues that
        overlap, Ramachandran outliers.
    ramachandran, rotamer : float
        Shares of outliers.
    overlap : float
        The largest, nm.
    """

    bonds: int
    chirality: int
    peptides: int
    clashes: int
    outliers: int
    ramachandran: float
    rotamer: float
    overlap: float


MEANINGLESS_ENERGY = 1e4
"""kJ/mol per residue; only overlapping atoms have more."""


@dataclass(frozen=True)
class Verdict:
    """What classical MD has to say about a frame.

    Attributes
    ----------
    status : str
        ``"pass"``: nothing that MD frames of proteins do not show too. ``"strained"``: a minimisation or a classical
        segment mends it. ``"broken"``: another molecule, or one that the force field refuses; do not go on from it.
    advice : str
        What to do about it.
    residues : tuple of str
        The culprits, "chain A residue ALA 12", the worst first.
    findings : tuple of Finding
    step : int
        Of the frame.
    time : float
        Of the frame, ps.
    count : int
        Residues.
    duration : float
        Classical MD run, ps; less than asked for where it broke down.
    energy_drawn, energy_minimized, energy_start : float
        Potential energy of the frame before and after minimisation, and of the start structure minimised alike,
        kJ/mol; nan where there is none. In a model with solvent the start's is nan and energies are not judged, for the
        water's outweigh the protein's.
    moved : float
        Backbone RMSD between the frame drawn and the minimised one, nm.
    force : float
        Largest force on an atom after minimisation, kJ/mol/nm.
    force_residue : str
        Where it acts.
    drawn, minimized, ended : Geometry or None
        Of the frame drawn, minimised, and at the end of the segment.
    times, rmsd : tuple of float
        Backbone RMSD to the minimised frame along the segment, ps and nm.
    drift : float
        The last of them; nan without a segment.
    spread : float
        RMSD expected at that lag, nm.
    spread_from : str
        Where that expectation comes from.
    temperature, temperature_set : float
        Mean over the second half of the segment and the thermostat's, K.
    contacts : float
        Share of the frame's own CA contacts that are there at the end.
    contacts_start : float
        Share of the start structure's CA contacts in the frame.
    rmsd_start : float
        Backbone RMSD of the frame to the start structure, nm.
    fold_held : bool
        Whether the segment did not undo the fold; true as well where no dynamics were asked for, false where the frame
        never got as far.
    seconds : float
    settings : dict
        Force field, minimisation, platform and seed.
    """

    status: str
    advice: str
    residues: tuple[str, ...]
    findings: tuple[Finding, ...]
    step: int
    time: float
    count: int
    duration: float
    energy_drawn: float
    energy_minimized: float
    energy_start: float
    moved: float
    force: float
    force_residue: str
    drawn: Geometry | None
    minimized: Geometry | None
    ended: Geometry | None
    times: tuple[float, ...]
    rmsd: tuple[float, ...]
    drift: float
    spread: float
    spread_from: str
    temperature: float
    temperature_set: float
    contacts: float
    contacts_start: float
    rmsd_start: float
    fold_held: bool
    seconds: float
    settings: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the status is "pass"."""
        return self.status == "pass"

    def __str__(self) -> str:
        rows = [
            ("frame", f"step {self.step}, {self.time:g} ps, {self.count} residues"),
            ("energy drawn", self._energy(self.energy_drawn)),
            ("energy minimised", self._energy(self.energy_minimized)),
            ("  of the start", self._energy(self.energy_start)),
            ("moved by minimisation", f"{_number(10 * self.moved)} Å backbone RMSD"),
            ("largest force left", f"{_number(self.force, 0)} kJ/mol/nm {self.force_residue}".rstrip()),
            ("backbone drift", f"{_number(10 * self.drift)} Å after {self.duration:g} ps"),
            ("  expected", f"{_number(10 * self.spread)} Å ({self.spread_from})"),
            ("temperature", f"{_number(self.temperature, 0)} K (thermostat {self.temperature_set:g} K)"),
            ("contacts kept", f"{_number(100 * self.contacts, 0)} % of the frame's"),
            (
                "from the start",
                f"{_number(10 * self.rmsd_start)} Å, {_number(100 * self.contacts_start, 0)} % contacts",
            ),
            ("fold held", self._fold()),
        ]
        wide = max(len(name) for name, _ in rows)
        lines = [f"verdict: {self.status.upper()}", *(f"{name:<{wide}}  {value}" for name, value in rows), ""]
        lines += self._geometry_table()
        if self.findings:
            lines += ["", *(f"{'!!' if finding.grave else ' !'} {finding.text}" for finding in self.findings)]
        return "\n".join([*lines, "", f"advice: {self.advice}"])

    def _fold(self) -> str:
        # without dynamics the fold was not put to the test
        return "no" if not self.fold_held else "yes" if self.times else "-"

    def _energy(self, total: float) -> str:
        if abs(total / self.count) > MEANINGLESS_ENERGY:
            return "beyond meaning: atoms overlap"
        return f"{_number(total, 0)} kJ/mol ({_number(total / self.count)} per residue)"

    def _geometry_table(self) -> list[str]:
        stages = [("drawn", self.drawn), ("minimised", self.minimized), ("after MD", self.ended)]
        there = [(name, stage) for name, stage in stages if stage is not None]
        lines = [f"{'':<22}" + "".join(f"{name:>11}" for name, _ in there)]
        for name, scale, places in (
            ("bonds", 1, 0),
            ("chirality", 1, 0),
            ("peptides", 1, 0),
            ("clashes", 1, 0),
            ("overlap", 10, 2),
            ("ramachandran", 100, 1),
            ("rotamer", 100, 1),
        ):
            unit = {10: " (Å)", 100: " outliers (%)"}.get(scale, "")
            values = (_number(scale * getattr(stage, name), places) for _, stage in there)
            lines.append(f"{name + unit:<22}" + "".join(f"{value:>11}" for value in values))
        return lines

    def to_json(self) -> str:
        """JSON object with the attributes of this class; lengths in nm, nan as null."""
        return json.dumps(_plain(asdict(self)), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Inverse of :meth:`to_json`."""
        data = json.loads(text)
        unknown = set(data) ^ {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"not a saved verdict: {', '.join(sorted(unknown))} missing or unknown")
        for name, value in data.items():
            if isinstance(value, list):
                data[name] = tuple(value)
            elif value is None and name not in ("drawn", "minimized", "ended"):
                data[name] = math.nan
        data["findings"] = tuple(Finding(**{**item, "residues": tuple(item["residues"])}) for item in data["findings"])
        for name in ("drawn", "minimized", "ended"):
            if data[name] is not None:
                counted: dict[str, Any] = {key: math.nan if v is None else v for key, v in data[name].items()}
                data[name] = Geometry(**counted)
        return cls(**data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON to a file, in one move."""
        write_text(Path(path), self.to_json() + "\n")

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw energy, drift and geometry as a PNG.

        Parameters
        ----------
        path : path
            An older file is replaced in one move.

        Returns
        -------
        Path

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        from openmm_starmd.evaluation.canvas import blank_figure, save_png

        figure, axes = blank_figure("the plot", 11, 3.6, columns=3)
        energy, drift, geometry = axes[0]
        names = ["drawn", "minimised", "start"]
        values = [self.energy_drawn, self.energy_minimized, self.energy_start]
        energy.bar(names, [value / self.count for value in values], color=["#c44e52", "#4c72b0", "#999999"])
        # an overlap of atoms costs more than anything else on the axis shows
        energy.set_yscale("symlog", linthresh=100)
        energy.set(title="Potential energy", ylabel="kJ/mol per residue")
        drift.plot(self.times, [10 * value for value in self.rmsd], color="#4c72b0", label="this frame")
        if math.isfinite(self.spread):
            drift.axhline(10 * self.spread, color="#999999", linestyle="--", label=f"expected: {self.spread_from}")
        drift.set(title="Backbone RMSD during MD", xlabel="ps", ylabel="Å")
        drift.set_ylim(bottom=0)
        drift.legend(loc="lower right", fontsize="small")
        kinds = ("bonds", "chirality", "peptides", "clashes", "outliers")
        stages = [("drawn", self.drawn), ("minimised", self.minimized), ("after MD", self.ended)]
        for place, (name, stage) in enumerate(stages):
            if stage is not None:
                across = [i + 0.27 * (place - 1) for i in range(len(kinds))]
                geometry.bar(across, [getattr(stage, kind) for kind in kinds], width=0.25, label=name)
        geometry.set_xticks(range(len(kinds)), kinds, rotation=20)
        geometry.set(title="Defects")
        geometry.legend(fontsize="small")
        figure.suptitle(f"step {self.step}: {self.status}")
        return save_png(figure, path, dpi=120)


def _number(value: float, places: int = 2) -> str:
    return f"{value:.{places}f}" if math.isfinite(value) else "-"


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: nan and infinities become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
