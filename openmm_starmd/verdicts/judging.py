"""Judging the frames of one classical model: they are inspected, minimised and simulated."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
import openmm as mm
from openmm import unit

from openmm_starmd.analysis.defects import Defect, Inspector, Quality
from openmm_starmd.analysis.flexibility import CONTACT, CONTACT_SEPARATION
from openmm_starmd.geometry.superposition import rmsd, superpose
from openmm_starmd.verdicts.limits import advise, geometry_findings
from openmm_starmd.verdicts.report import Finding, Geometry, Verdict

if TYPE_CHECKING:
    from openmm_starmd.classical.model import ClassicalModel, Entry
    from openmm_starmd.verdicts.settings import VerdictSettings

POINTS = 10  # of the drift curve
_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoules_per_mole / unit.kelvin)
_LOOSE = 1.2  # a contact counts as kept up to this many times its cutoff, or it would flicker


@dataclass(frozen=True)
class HeavyFrame:
    """A frame with its heavy atoms, as it is judged.

    Attributes
    ----------
    backbone : ndarray [N, 3, 3]
        N, CA, C, nm.
    torsions : ndarray [N, 5 or 7] or None
        As ``BackMap.place`` reads them; None where the frame has no side chains of its own.
    positions : ndarray [heavy atoms, 3]
        nm, in the order of ``protein.frame_topology("heavy")``.
    placed : bool
        Whether side chains were put there by rule.
    step : int
    time : float
        ps.
    """

    backbone: np.ndarray
    torsions: np.ndarray | None
    positions: np.ndarray
    placed: bool
    step: int = 0
    time: float = 0.0


@dataclass(kw_only=True)
class Figures:
    """What is measured on a frame, as far as it gets: fields of :class:`Verdict` by the same names."""

    step: int
    time: float
    count: int
    drawn: Geometry
    spread: float
    spread_from: str
    temperature_set: float
    contacts_start: float
    rmsd_start: float
    settings: dict[str, Any]
    duration: float = 0.0
    energy_drawn: float = np.nan
    energy_minimized: float = np.nan
    energy_start: float = np.nan
    moved: float = np.nan
    force: float = np.nan
    force_residue: str = ""
    minimized: Geometry | None = None
    ended: Geometry | None = None
    times: tuple[float, ...] = ()
    rmsd: tuple[float, ...] = ()
    drift: float = np.nan
    temperature: float = np.nan
    contacts: float = np.nan
    fold_held: bool = False

    def verdict(self, findings: list[Finding], seconds: float) -> Verdict:
        """The verdict that these figures and findings make."""
        # stable: of findings as grave, the first one made comes first
        findings = sorted(findings, key=lambda finding: not finding.grave)
        status = "broken" if any(f.grave for f in findings) else "strained" if findings else "pass"
        return Verdict(
            status=status,
            advice=advise(status, findings),
            residues=tuple(dict.fromkeys(label for finding in findings for label in finding.residues)),
            findings=tuple(findings),
            seconds=seconds,
            **vars(self),
        )


class Judge:
    """Judges the frames of one classical model.

    It holds no reference to the model, which is the weak key it is kept under.

    Parameters
    ----------
    model : ClassicalModel
    """

    def __init__(self, model: ClassicalModel) -> None:
        protein = model.protein
        topology = protein.frame_topology("heavy")
        start = protein.frame_positions(protein.backbone, "heavy")
        self._inspector = Inspector(mdtraj.Topology.from_openmm(topology), start, protein.bonded)
        self._atoms = model.frame_atoms(topology)
        self._owner = np.array([atom.residue.index for atom in topology.atoms()])
        self._labels = [protein.residue_label(i) for i in range(protein.length)]
        self._carriers = _heavy_carriers(model)
        self._freedom = _degrees_of_freedom(model.simulation.system)
        self._start_energy: dict[int | None, float] = {}

    def judge(self, model: ClassicalModel, frame: HeavyFrame, settings: VerdictSettings) -> Verdict:
        """Inspect a frame, then minimise and simulate it in the model.

        Parameters
        ----------
        model : ClassicalModel
            The one that this judge was made of.
        frame : HeavyFrame
        settings : VerdictSettings

        Returns
        -------
        Verdict
        """
        began = time.perf_counter()
        quality = self._inspector.inspect(frame.positions, placed=frame.placed)
        start = model.protein.backbone
        figures = Figures(
            step=frame.step,
            time=frame.time,
            count=model.protein.length,
            drawn=_geometry(quality),
            spread=settings.spread.at(settings.duration) if settings.duration else np.nan,
            spread_from=settings.spread.source,
            temperature_set=model.settings.temperature,
            contacts_start=_contacts_kept(start, frame.backbone),
            rmsd_start=_rmsd(frame.backbone, start),
            settings={"minimize": settings.minimize, "seed": settings.seed, **_described(model)},
        )
        findings = geometry_findings(quality, self._labels, settings.limits, "")
        hopeless = settings.stop_if_broken and any(finding.grave for finding in findings)
        if not quality.count("position") and not hopeless:
            findings += self._try(model, frame, settings, figures)
        return figures.verdict(findings, time.perf_counter() - began)

    def _try(
        self, model: ClassicalModel, frame: HeavyFrame, settings: VerdictSettings, figures: Figures
    ) -> list[Finding]:
        """Minimise and simulate a frame: what was found; `figures` are filled in."""
        # the energy of free solvent outweighs the protein's and depends on where the minimiser stopped
        if not len(model.model.others):
            figures.energy_start = self._energy_of_start(model, settings)
        try:
            entry = self._enter(model, frame.backbone, frame.torsions, settings)
        except (RuntimeError, mm.OpenMMException) as error:
            return [Finding("refused", True, str(error), self._closest(model, frame))]
        findings = self._minimized(model, frame, entry, settings, figures)
        try:
            self._simulate(model, entry, settings.duration, figures)
        except mm.OpenMMException as error:
            text = f"the dynamics broke down within {settings.duration:g} ps: {error}"
            return [*findings, Finding("refused", True, text, (figures.force_residue,))]
        if settings.duration:
            findings += self._ended(model, entry, settings, figures)
        figures.fold_held = not any(finding.kind == "fold" for finding in findings)
        return findings

    def _minimized(
        self, model: ClassicalModel, frame: HeavyFrame, entry: Entry, settings: VerdictSettings, figures: Figures
    ) -> list[Finding]:
        """What minimisation made of the frame."""
        quality = self._inspector.inspect(model.positions()[self._atoms])
        figures.force, where = self._largest_force(model)
        figures.force_residue = self._labels[where]
        figures.energy_drawn, figures.energy_minimized = entry.energy_placed, entry.energy_minimized
        figures.moved = entry.moved
        figures.minimized = _geometry(quality)
        findings = geometry_findings(quality, self._labels, settings.limits, "after minimisation, ")
        return findings + settings.limits.energy_findings(figures, self._most_moved(frame.backbone, entry.backbone))

    def _simulate(self, model: ClassicalModel, entry: Entry, duration: float, figures: Figures) -> None:
        """Run the segment and follow the backbone; `figures` stay as they are if it breaks down."""
        integrator, timestep = model.simulation.integrator, model.settings.timestep
        steps = round(duration / timestep)
        ends = np.unique(np.linspace(0, steps, POINTS + 1).round().astype(int))
        times, distances, heat = [0.0], [0.0], []
        for before, after in pairwise(ends):
            integrator.step(int(after - before))
            backbone = model.backbone()
            if not np.isfinite(backbone).all():
                raise mm.OpenMMException("Particle coordinate is NaN.")
            times.append(float(after * timestep))
            distances.append(_rmsd(backbone, entry.backbone))
            kinetic = model.simulation.context.getState(energy=True).getKineticEnergy()
            heat.append(2 * kinetic.value_in_unit(unit.kilojoules_per_mole) / (_GAS_CONSTANT * self._freedom))
        if not steps:
            return
        figures.duration, figures.times, figures.rmsd = times[-1], tuple(times), tuple(distances)
        figures.drift = distances[-1]
        figures.temperature = float(np.mean(heat[len(heat) // 2 :]))
        figures.contacts = _contacts_kept(entry.backbone, backbone)

    def _ended(self, model: ClassicalModel, entry: Entry, settings: VerdictSettings, figures: Figures) -> list[Finding]:
        """What the segment left of the frame."""
        quality = self._inspector.inspect(model.positions()[self._atoms])
        figures.ended = _geometry(quality)
        findings = settings.limits.dynamics_findings(figures, self._most_moved(entry.backbone, model.backbone()))
        defects = geometry_findings(quality, self._labels, settings.limits, "after the segment, ")
        return findings + [finding for finding in defects if finding.grave]

    def _enter(
        self, model: ClassicalModel, backbone: np.ndarray, torsions: np.ndarray | None, settings: VerdictSettings
    ) -> Entry:
        return model.enter(backbone, torsions, minimize=settings.minimize, equilibrate=0.0, seed=settings.seed)

    def _energy_of_start(self, model: ClassicalModel, settings: VerdictSettings) -> float:
        """Energy of the start structure minimised alike, kJ/mol; nan where the force field refuses it."""
        known = self._start_energy
        if settings.minimize not in known:
            known[settings.minimize] = np.nan
            # where the start is refused, there is nothing to compare energies with, and the verdict shows none
            with suppress(RuntimeError, mm.OpenMMException):
                known[settings.minimize] = self._enter(model, model.protein.backbone, None, settings).energy_minimized
        return known[settings.minimize]

    def _largest_force(self, model: ClassicalModel) -> tuple[float, int]:
        """The largest force on a heavy atom with its hydrogens, kJ/mol/nm, and its residue."""
        state = model.simulation.context.getState(forces=True)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
        # constraints take up the forces along bonds to hydrogen, which cancel in the sum over an atom and its hydrogens
        sums = np.zeros((len(self._carriers), 3))
        np.add.at(sums, self._carriers, np.asarray(forces))
        sizes = np.nan_to_num(np.linalg.norm(sums[self._atoms], axis=-1), nan=np.inf)  # [heavy atoms]
        atom = int(sizes.argmax())
        return float(sizes[atom]), int(self._owner[atom])

    def _most_moved(self, before: np.ndarray, after: np.ndarray) -> tuple[str, ...]:
        """Labels of the three residues whose backbone, [N, 3, 3], moved most, after superposition."""
        flat = superpose(after.reshape(1, -1, 3), before.reshape(-1, 3))[0].reshape(after.shape)
        moved = np.linalg.norm(flat - before, axis=-1).max(-1)
        return tuple(self._labels[i] for i in np.argsort(-moved)[:3])

    def _closest(self, model: ClassicalModel, frame: HeavyFrame) -> tuple[str, ...]:
        """Residues that overlap most once all atoms are placed."""
        placed = model.model.place(frame.backbone, frame.torsions)[self._atoms]
        defects: list[Defect] = [d for d in self._inspector.inspect(placed).defects if d.kind != "outlier"]
        return tuple(dict.fromkeys(self._labels[i] for defect in defects[:2] for i in defect.residues))


def _geometry(quality: Quality) -> Geometry:
    return Geometry(
        bonds=quality.count("bond") + quality.count("break"),
        chirality=quality.count("chirality"),
        peptides=quality.count("peptide"),
        clashes=quality.count("clash"),
        outliers=quality.count("outlier"),
        ramachandran=quality.ramachandran,
        rotamer=quality.rotamer,
        overlap=quality.overlap,
    )


def _described(model: ClassicalModel) -> dict[str, Any]:
    settings = model.settings
    names = settings.forcefield if isinstance(settings.forcefield, tuple) else type(settings.forcefield).__name__
    return {
        "forcefield": names,
        "solvent": settings.solvent,
        "timestep": settings.timestep,
        "platform": model.simulation.context.getPlatform().getName(),
    }


def _degrees_of_freedom(system: mm.System) -> int:
    masses = (system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles()))
    still = 3 * any(isinstance(force, mm.CMMotionRemover) for force in system.getForces())
    return 3 * sum(mass > 0 for mass in masses) - system.getNumConstraints() - still


def _heavy_carriers(model: ClassicalModel) -> np.ndarray:
    """For each atom of the all-atom model the heavy atom it hangs on, itself where it is heavy."""
    topology = model.model.topology
    carrier = np.arange(topology.getNumAtoms())
    for bond in topology.bonds():
        for one, other in ((bond[0], bond[1]), (bond[1], bond[0])):
            if one.element is not None and one.element.symbol == "H":
                carrier[one.index] = other.index
    return carrier


def _rmsd(first: np.ndarray, second: np.ndarray) -> float:
    """Backbone RMSD after superposition; [N, 3, 3] each, nm."""
    if not np.isfinite(first).all():
        return float("nan")
    return float(rmsd(first.reshape(1, -1, 3), second.reshape(-1, 3))[0])


def _contacts_kept(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the CA contacts of one backbone [N, 3, 3] that another has; nan where there are none."""
    rows, columns = np.triu_indices(len(before), CONTACT_SEPARATION)
    distances = [np.linalg.norm(b[rows, 1] - b[columns, 1], axis=-1) for b in (before, after)]
    close = distances[0] < CONTACT
    return float((distances[1][close] < _LOOSE * CONTACT).mean()) if close.any() else float("nan")
