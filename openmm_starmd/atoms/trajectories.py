"""Trajectories of frames turned into trajectories of atoms: what ``openmm-starmd backmap`` does."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from openmm import app, unit

from openmm_starmd.analysis.defects import Inspector
from openmm_starmd.atoms.allatom import AllAtomModel
from openmm_starmd.atoms.ca_trace import backbone_from_trace
from openmm_starmd.atoms.frame_writer import STREAMED, FrameWriter
from openmm_starmd.atoms.relaxing import STIFFNESS, Relaxed, Relaxer
from openmm_starmd.atoms.report import BackmapReport, FrameReport
from openmm_starmd.files.reading import read_structure
from openmm_starmd.files.writing import write_text
from openmm_starmd.protein.backmap import GEOMETRIES
from openmm_starmd.protein.protein import ATOMS, Protein

TARGETS = ("heavy", "all")
_CHUNK = 300_000  # atoms in memory at once


def backmap_trajectory(
    trajectory: str | os.PathLike[str],
    output: str | os.PathLike[str],
    topology: str | os.PathLike[str] | None = None,
    *,
    to: str = "heavy",
    geometry: str = "input",
    minimize: bool = False,
    iterations: int = 100,
    stiffness: float = STIFFNESS,
    interval: float | None = None,
    forcefield: app.ForceField | None = None,
    platform: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> BackmapReport:
    """Give the frames of a trajectory their atoms back.

    Frames may hold CA, the backbone, heavy atoms (as the run command writes them), or all atoms of `topology`. What
    frames have is kept to the bit; side chains that they lack keep the χ angles and the geometry of `topology`; N and C
    of CA frames are estimated (see :mod:`openmm_starmd.atoms.ca_trace`), which only a minimisation makes good. Writes
    `output`, a PDB file of its first frame, and a CSV file with a :class:`FrameReport` a row, both beside it under its
    stem.

    Parameters
    ----------
    trajectory : path
        Any format of mdtraj.
    output : path
        Its ending names the format.
    topology : path, optional
        PDB or mmCIF file of the protein, with side chains: what the run was started from. By default the input
        named in ``config.json`` beside `trajectory`, or ``topology.pdb`` there.
    to : {"heavy", "all"}
    geometry : {"input", "ideal"}
        Bond lengths and angles of what is placed: those of `topology`, or ideal ones.
    minimize : bool
        In OBC2 implicit solvent, N, CA and C held by harmonic restraints; all atoms move, "heavy" too.
    iterations : int
        Of the minimiser at most, per frame.
    stiffness : float
        Of the restraints, kJ/mol/nm^2.
    interval : float, optional
        ps between frames; else the file's own times, or the stride in ``config.json`` where the format has none.
    forcefield : app.ForceField, optional
        For hydrogens and minimisation; amber14-all by default.
    platform : str, optional
        OpenMM platform of the minimisation.
    progress : callable, optional
        Called with the number of frames done.

    Returns
    -------
    BackmapReport

    Raises
    ------
    ValueError
        If files cannot be read or do not fit; says what to do.
    """
    source_path, output_path = Path(trajectory), Path(output)
    if to not in TARGETS:
        raise ValueError(f"to must be one of {', '.join(TARGETS)}, not {to!r}")
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry must be one of {', '.join(GEOMETRIES)}, not {geometry!r}")
    if output_path.resolve() == source_path.resolve():
        raise ValueError(f"{output_path} is the trajectory itself: choose another output")
    writer = FrameWriter(output_path)
    config = _config(source_path)
    structure_path = Path(topology) if topology is not None else _structure_beside(source_path, config)
    structure = read_structure(structure_path)
    protein = Protein.from_openmm(structure.topology, structure.positions)
    frames = _Frames(source_path, structure_path, structure, protein)
    if frames.source == "ca" and not minimize:
        warnings.warn(
            "N and C are estimated from the CA trace (off by 0.2 Å and more): minimise, or run with "
            'atoms="backbone" or "heavy", which keeps them',
            UserWarning,
            stacklevel=2,
        )
    if interval is None and source_path.suffix.lower() == ".dcd":
        # a DCD file stores no times
        interval = config.get("stride")
    relaxing = {"iterations": iterations, "stiffness": stiffness, "platform": platform} if minimize else None
    placer = _Placer(protein, to, geometry, forcefield, relaxing)
    made_topology = mdtraj.Topology.from_openmm(placer.topology)
    reports: list[FrameReport] = []
    with writer:
        for backbone, heavy, chunk in frames.chunks():
            done = len(reports)
            times = chunk.time if interval is None else interval * np.arange(done + 1, done + 1 + len(backbone))
            positions, found = placer.place(backbone, heavy, times, done)
            reports += found
            made = mdtraj.Trajectory(positions, made_topology, time=times)
            made.unitcell_vectors = chunk.unitcell_vectors
            writer.write(made)
            if not done:
                first = positions[0]
            if progress is not None:
                progress(len(reports))
        if not reports:
            raise ValueError(f"{source_path} has no frames")
    report = BackmapReport(frames.source, to, minimize, tuple(reports))
    if output_path.suffix.lower() != ".pdb":
        text = io.StringIO()
        app.PDBFile.writeFile(placer.topology, first * unit.nanometer, text, keepIds=True)
        write_text(output_path.with_suffix(".pdb"), text.getvalue())
    report.write_csv(output_path.with_suffix(".csv"))
    return report


class _Frames:
    """The frames of a file, and which atoms they have."""

    def __init__(self, path: Path, named: Path, structure: app.PDBFile | app.PDBxFile, protein: Protein) -> None:
        self._path, self._protein = path, protein
        choices = {atoms: protein.frame_topology(atoms) for atoms in reversed(ATOMS)} | {"all": structure.topology}
        sizes = {atoms: choice.getNumAtoms() for atoms, choice in choices.items()}
        count = _atom_count(path, mdtraj.Topology.from_openmm(structure.topology))
        fits = [atoms for atoms, size in sizes.items() if size == count]
        if not fits:
            known = ", ".join(f"{size} ({atoms})" for atoms, size in sizes.items())
            raise ValueError(
                f"{path} has {count} atoms a frame; frames of {named} would have {known}: name the structure that the "
                "run was started from"
            )
        self.source = fits[0]
        self._topology = mdtraj.Topology.from_openmm(choices[self.source])
        self._heavy = np.arange(count)
        if self.source == "all":
            self._heavy = AllAtomModel.from_topology(protein, structure.topology, structure.positions).heavy

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray | None, mdtraj.Trajectory]]:
        """Backbones [F, N, 3, 3], heavy atoms [F, atoms, 3] where frames have them, and the frames as read."""
        protein = self._protein
        size = max(1, _CHUNK // protein.topology.getNumAtoms())
        for chunk in mdtraj.iterload(str(self._path), top=self._topology, chunk=size):
            xyz = chunk.xyz.astype(np.float64)
            if not np.isfinite(xyz).all():
                raise ValueError(f"{self._path} has positions that are not finite")
            if self.source == "ca":
                yield backbone_from_trace(xyz, protein.backbone, protein.bonded), None, chunk
            elif self.source == "backbone":
                yield xyz[:, protein.backmap("backbone").backbone], None, chunk
            else:
                heavy = xyz[:, self._heavy]
                yield heavy[:, protein.backmap("heavy").backbone], heavy, chunk


class _Placer:
    """Atoms of frames, and what is wrong with them."""

    def __init__(
        self,
        protein: Protein,
        to: str,
        geometry: str,
        forcefield: app.ForceField | None,
        relaxing: dict[str, Any] | None,
    ) -> None:
        self._to, self._mapping = to, protein.backmap("heavy", geometry)
        self.topology = self._mapping.topology
        self._model = self._relaxer = None
        if to == "all" or relaxing is not None:
            forcefield = forcefield or app.ForceField("amber14-all.xml")
            self._model = AllAtomModel.build(protein, forcefield)
            if to == "all":
                self.topology = self._model.topology
            if relaxing is not None:
                self._relaxer = Relaxer(self._model, forcefield, **relaxing)
        heavy = mdtraj.Topology.from_openmm(self._mapping.topology)
        self._inspector = Inspector(heavy, protein.backmap("heavy").positions, protein.bonded)

    def place(
        self, backbone: np.ndarray, heavy: np.ndarray | None, times: np.ndarray, first: int
    ) -> tuple[np.ndarray, list[FrameReport]]:
        """Positions [F, atoms, 3] of a chunk, nm, and a report per frame; `first` is the number of its first frame."""
        heavy = self._mapping.place(backbone) if heavy is None else heavy
        everything = heavy if self._model is None else self._model.dress(heavy)
        extras: list[dict[str, float]] = [{} for _ in heavy]
        if self._relaxer is not None and self._model is not None:
            relaxed = [self._relaxed(self._relaxer, frame, first + k) for k, frame in enumerate(everything)]
            everything = np.array([frame.positions for frame in relaxed])
            heavy = everything[:, self._model.heavy]
            extras = [
                {"energy_before": frame.before, "energy_after": frame.after, "moved_A": 10 * frame.moved}
                for frame in relaxed
            ]
        reports = []
        for k, frame in enumerate(heavy):
            quality = self._inspector.inspect(frame)
            reports.append(
                FrameReport(
                    frame=first + k,
                    time_ps=float(times[k]),
                    clashes=quality.count("clash"),
                    overlap_A=10 * quality.overlap,
                    bad_bonds=quality.count("bond") + quality.count("break"),
                    inverted=quality.count("chirality"),
                    twisted=quality.count("peptide"),
                    **extras[k],
                )
            )
        return (everything if self._to == "all" else heavy), reports

    def _relaxed(self, relaxer: Relaxer, frame: np.ndarray, number: int) -> Relaxed:
        try:
            return relaxer.relax(frame)
        except ValueError as error:
            raise ValueError(
                f"frame {number}: {error} Leave the frame out of the trajectory, or do without minimize"
            ) from error


def _atom_count(path: Path, topology: mdtraj.Topology) -> int:
    """Atoms of a frame of a trajectory file, whatever its topology."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        if path.suffix.lower() in STREAMED:
            with mdtraj.open(str(path)) as file:
                first: Any = file.read(1)
            xyz = (
                first.coordinates if hasattr(first, "coordinates") else first[0] if isinstance(first, tuple) else first
            )
            return int(np.shape(xyz)[-2])
        return int(mdtraj.load_frame(str(path), 0, top=topology).n_atoms)
    except Exception as error:
        # mdtraj's readers raise whatever the damage happens to cause
        raise ValueError(f"{path} cannot be read as a trajectory: {type(error).__name__}: {error}") from error


def _config(trajectory: Path) -> dict[str, Any]:
    """``config.json`` of the run that a trajectory lies in; empty where there is none."""
    path = trajectory.parent / "config.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not the configuration of a run: {error}") from error


def _structure_beside(trajectory: Path, config: dict[str, Any]) -> Path:
    """The structure of a run, where none is named: its input, or else its first frame."""
    named = config.get("input")
    for path in (Path(named) if named else None, trajectory.parent / "topology.pdb"):
        if path is not None and path.is_file():
            return path
    raise ValueError(f"no structure of {trajectory} is known: name the PDB file that the run was started from")
