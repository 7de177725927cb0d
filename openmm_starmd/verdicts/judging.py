"""The bench that frames of one classical model are judged on: inspected, minimised, simulated."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
import openmm as mm
from openmm import unit

from openmm_starmd.analysis.defects import Defect, Inspector, Quality
from openmm_starmd.analysis.flexibility import CONTACT, CONTACT_SEPARATION, rmsd, superpose
from openmm_starmd.verdicts.limits import Limits, Spread, advise, geometry_findings
from openmm_starmd.verdicts.report import Finding, Geometry, Verdict

if TYPE_CHECKING:
    from openmm_starmd.classical.model import ClassicalModel, Entry

POINTS = 10  # of the drift curve
_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoules_per_mole / unit.kelvin)
_LOOSE = 1.2  # a contact counts as kept up to this many times its cutoff, or it would flicker


@dataclass(frozen=True)
class Drawn:
    """A frame to be judged.

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


class Bench:
    """What the frames of one classical model are compared with.

    It holds no reference to the model, which is the weak key it is kept under.
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

    def judge(
        self,
        model: ClassicalModel,
        frame: Drawn,
        duration: float,
        minimize: int | None,
        seed: int,
        spread: Spread,
        limits: Limits,
        stop_if_broken: bool,
    ) -> Verdict:
        """The arguments of :func:`openmm_starmd.verdicts.verdict.judge`, `duration` in ps."""
        began = time.perf_counter()
        drawn = self._inspector.inspect(frame.positions, placed=frame.placed)
        findings = geometry_findings(drawn, self._labels, limits, "")
        start = model.protein.backbone
        settings = {"minimize": minimize, "seed": seed, **_described(model)}
        verdict = Verdict(
            status="",
            advice="",
            residues=(),
            findings=(),
            step=frame.step,
            time=frame.time,
            count=model.protein.length,
            duration=0.0,
            energy_drawn=np.nan,
            energy_minimized=np.nan,
            energy_start=np.nan,
            moved=np.nan,
            force=np.nan,
            force_residue="",
            drawn=_geometry(drawn),
            minimized=None,
            ended=None,
            times=(),
            rmsd=(),
            drift=np.nan,
            spread=spread.at(duration) if duration else np.nan,
            spread_from=spread.source,
            temperature=np.nan,
            temperature_set=model.settings.temperature,
            contacts=np.nan,
            contacts_start=_contacts_kept(start, frame.backbone),
            rmsd_start=_rmsd(frame.backbone, start),
            fold_held=False,
            seconds=0.0,
            settings=settings,
        )
        hopeless = stop_if_broken and any(finding.grave for finding in findings)
        if not drawn.count("position") and not hopeless:
            verdict, more = self._run(model, verdict, frame, duration, minimize, seed, limits)
            findings += more
        findings.sort(key=lambda finding: not finding.grave)
        status = "broken" if any(f.grave for f in findings) else "strained" if findings else "pass"
        residues = tuple(dict.fromkeys(label for finding in findings for label in finding.residues))
        return replace(
            verdict,
            status=status,
            advice=advise(status, findings),
            residues=residues,
            findings=tuple(findings),
            seconds=time.perf_counter() - began,
        )

    def _run(
        self,
        model: ClassicalModel,
        verdict: Verdict,
        frame: Drawn,
        duration: float,
        minimize: int | None,
        seed: int,
        limits: Limits,
    ) -> tuple[Verdict, list[Finding]]:
        """Minimise and simulate; the verdict filled in, and what was found."""
        # free solvent outweighs the protein, and a bounded minimisation leaves it anywhere
        if not len(model.model.others):
            verdict = replace(verdict, energy_start=self._energy_of_start(model, minimize, seed))
        try:
            entry = model.enter(frame.backbone, frame.torsions, minimize=minimize, equilibrate=0.0, seed=seed)
        except (RuntimeError, mm.OpenMMException) as error:
            return verdict, [Finding("refused", True, str(error), self._closest(model, frame))]
        heavy = model.positions()[self._atoms]
        quality = self._inspector.inspect(heavy)
        force, where = self._largest_force(model)
        verdict = replace(
            verdict,
            energy_drawn=entry.energy_placed,
            energy_minimized=entry.energy_minimized,
            moved=entry.moved,
            force=force,
            force_residue=self._labels[where],
            minimized=_geometry(quality),
        )
        findings = geometry_findings(quality, self._labels, limits, "after minimisation, ")
        findings += limits.energy_findings(verdict, self._most_moved(frame.backbone, entry))
        try:
            verdict = self._simulate(model, verdict, entry, duration)
        except mm.OpenMMException as error:
            text = f"the dynamics broke down within {duration:g} ps: {error}"
            return verdict, [*findings, Finding("refused", True, text, (self._labels[where],))]
        if duration:
            ended = self._inspector.inspect(model.positions()[self._atoms])
            verdict = replace(verdict, ended=_geometry(ended))
            findings += limits.dynamics_findings(verdict, self._most_moved(entry.backbone, entry, model.backbone()))
            findings += [f for f in geometry_findings(ended, self._labels, limits, "after the segment, ") if f.grave]
        lost = any(finding.kind == "fold" for finding in findings)
        return replace(verdict, fold_held=not lost), findings

    def _simulate(self, model: ClassicalModel, verdict: Verdict, entry: Entry, duration: float) -> Verdict:
        """Run the segment and follow the backbone."""
        integrator, timestep = model.simulation.integrator, model.settings.timestep
        steps = round(duration / timestep)
        ends = np.unique(np.linspace(0, steps, POINTS + 1).round().astype(int))
        times, distances, heat = [0.0], [0.0], []
        for before, after in zip(ends[:-1], ends[1:], strict=True):
            integrator.step(int(after - before))
            backbone = model.backbone()
            if not np.isfinite(backbone).all():
                raise mm.OpenMMException("Particle coordinate is NaN.")
            times.append(float(after * timestep))
            distances.append(_rmsd(backbone, entry.backbone))
            kinetic = model.simulation.context.getState(energy=True).getKineticEnergy()
            heat.append(2 * kinetic.value_in_unit(unit.kilojoules_per_mole) / (_GAS_CONSTANT * self._freedom))
        if not steps:
            return verdict
        return replace(
            verdict,
            duration=times[-1],
            times=tuple(times),
            rmsd=tuple(distances),
            drift=distances[-1],
            temperature=float(np.mean(heat[len(heat) // 2 :])),
            contacts=_contacts_kept(entry.backbone, backbone),
        )

    def _energy_of_start(self, model: ClassicalModel, minimize: int | None, seed: int) -> float:
        if minimize not in self._start_energy:
            protein = model.protein
            self._start_energy[minimize] = np.nan
            try:
                entry = model.enter(protein.backbone, None, minimize=minimize, equilibrate=0.0, seed=seed)
                self._start_energy[minimize] = entry.energy_minimized
            except (RuntimeError, mm.OpenMMException):
                pass  # then there is nothing to compare energies with, and the verdict shows none
        return self._start_energy[minimize]

    def _largest_force(self, model: ClassicalModel) -> tuple[float, int]:
        """The largest force on a heavy atom with its hydrogens, kJ/mol/nm, and its residue."""
        state = model.simulation.context.getState(forces=True)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
        # constraints balance the forces along bonds to hydrogen, which only the sum is free of
        sums = np.zeros((len(self._carriers), 3))
        np.add.at(sums, self._carriers, np.asarray(forces))
        sizes = np.nan_to_num(np.linalg.norm(sums[self._atoms], axis=-1), nan=np.inf)  # [heavy atoms]
        atom = int(sizes.argmax())
        return float(sizes[atom]), int(self._owner[atom])

    def _most_moved(self, before: np.ndarray, entry: Entry, after: np.ndarray | None = None) -> tuple[str, ...]:
        """Labels of the three residues whose backbone moved most, after superposition."""
        after = entry.backbone if after is None else after
        flat = superpose(after.reshape(1, -1, 3), before.reshape(-1, 3))[0].reshape(after.shape)
        moved = np.linalg.norm(flat - before, axis=-1).max(-1)
        return tuple(self._labels[i] for i in np.argsort(-moved)[:3])

    def _closest(self, model: ClassicalModel, frame: Drawn) -> tuple[str, ...]:
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
