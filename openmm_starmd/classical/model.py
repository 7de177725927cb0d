"""ClassicalModel: the all-atom simulation behind a protein, built once and entered from any frame."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd.atoms.relaxing import closest_atoms, relieve_overlaps
from openmm_starmd.atoms.systems import implicit_system
from openmm_starmd.classical.settings import ClassicalSettings
from openmm_starmd.classical.solvent import PeriodicSurroundings, solvated
from openmm_starmd.errors import keyboard_interrupts
from openmm_starmd.geometry.residues import BACKBONE
from openmm_starmd.geometry.superposition import aligned, aligned_rmsd
from openmm_starmd.quantities import whole_number

if TYPE_CHECKING:
    from openmm_starmd.atoms.allatom import AllAtomModel
    from openmm_starmd.protein.protein import Protein

_CHUNK = 50  # steps between chances for Python to notice a Ctrl-C


@dataclass(frozen=True)
class Entry:
    """How a classical simulation was started from a frame.

    Attributes
    ----------
    energy_placed, energy_minimized : float
        Potential energy before and after minimisation, kJ/mol.
    moved : float
        RMSD of N, CA and C by which minimisation moved the backbone, after superposition, nm.
    backbone : np.ndarray [N, 3, 3]
        N, CA, C after minimisation, before any dynamics, nm.
    displaced : int
        Waters and ions that lay where the protein is now, and were moved elsewhere.
    seconds : dict of str to float
        Spent on ``place``, ``minimize`` and ``equilibrate``.
    """

    energy_placed: float
    energy_minimized: float
    moved: float
    backbone: np.ndarray = field(repr=False)
    displaced: int
    seconds: dict[str, float] = field(repr=False)


class StepsInside(Protocol):
    """What advances an all-atom simulation in its stead while it runs in one: a classical segment."""

    def step_inside(self, steps: int) -> None:
        """Advance by `steps` time steps."""


class AllAtomSimulation(app.Simulation):
    """A classical Simulation of all atoms, which a segment of a StarMDSimulation may be running in.

    Attributes
    ----------
    segment : StepsInside or None
        While there is one, each whole stride that ``step()`` completes becomes a frame of the StarMDSimulation.
    """

    segment: StepsInside | None = None

    def step(self, steps: int) -> None:
        """Advance by `steps` time steps."""
        with keyboard_interrupts():
            if self.segment is None:
                super().step(whole_number(steps))
            else:
                self.segment.step_inside(whole_number(steps))


class ClassicalModel:
    """The all-atom simulation of a protein.

    Building it takes seconds: force field, hydrogens, System and Context are made here and kept. :meth:`enter` starts
    it from a frame in milliseconds, minimisation aside.

    Parameters
    ----------
    protein : Protein
        N residues.
    settings : ClassicalSettings, optional

    Attributes
    ----------
    protein : Protein
    settings : ClassicalSettings
    model : AllAtomModel
        All atoms, hydrogens and explicit solvent included.
    simulation : AllAtomSimulation
        An ``openmm.app.Simulation`` of them.
    backbone_atoms : np.ndarray [N, 3], int
        Atoms N, CA and C of each residue.
    seconds : float
        Spent on building.
    digests : dict of str to str
        Of ``system`` and ``integrator``, so that a checkpoint made with others can be refused.

    Raises
    ------
    ValueError
        If the force field does not know a residue or a setting does not fit; says what to do.
    """

    def __init__(self, protein: Protein, settings: ClassicalSettings | None = None) -> None:
        began = time.perf_counter()
        settings = settings or ClassicalSettings()
        platform = settings.platform_arguments()
        model, system = _build(protein, settings)
        self._set_up(settings, model, AllAtomSimulation(model.topology, system, settings.make_integrator(), *platform))
        if settings.solvent == "explicit":
            self._equilibrate_solvent()
        self.seconds = time.perf_counter() - began

    @classmethod
    def adopt(cls, settings: ClassicalSettings, model: AllAtomModel, simulation: AllAtomSimulation) -> ClassicalModel:
        """The model of a System that exists.

        Parameters
        ----------
        settings : ClassicalSettings
            Its temperature and time step.
        model : AllAtomModel
            Of the whole topology; solvent begins each segment where it lies there.
        simulation : AllAtomSimulation
            With a Context of its own.
        """
        began = time.perf_counter()
        made = cls.__new__(cls)
        made._set_up(settings, model, simulation)
        made.seconds = time.perf_counter() - began
        return made

    def _set_up(self, settings: ClassicalSettings, model: AllAtomModel, simulation: AllAtomSimulation) -> None:
        self.protein, self.settings, self.model, self.simulation = model.protein, settings, model, simulation
        self.digests = {"system": _digest(simulation.system), "integrator": _digest(simulation.integrator)}
        self._parameters = dict(simulation.context.getParameters())
        # all atoms as built, solvent equilibrated: every segment begins with the solvent where it lies here
        self._built = np.array(model.positions, dtype=np.float64)
        frame = model.protein.frame_topology("heavy")
        self._names = [{atom.name: int(model.heavy[atom.index]) for atom in r.atoms()} for r in frame.residues()]
        self.backbone_atoms = np.array([[atoms[name] for name in ("N", "CA", "C")] for atoms in self._names])
        self._side_chains = _beside_the_backbone(simulation, self._names)
        self._surroundings: PeriodicSurroundings | None = None
        if simulation.system.usesPeriodicBoundaryConditions():
            self._surroundings = PeriodicSurroundings(model, simulation.context, self.backbone_atoms)

    def frame_atoms(self, topology: app.Topology) -> np.ndarray:
        """Where the atoms of a frame's topology are among those of the model, [atoms of the topology], int."""
        return np.array(
            [
                names[atom.name]
                for residue, names in zip(topology.residues(), self._names, strict=True)
                for atom in residue.atoms()
            ]
        )

    def enter(
        self,
        backbone: np.ndarray,
        torsions: np.ndarray | None = None,
        *,
        minimize: int | None = 50,
        equilibrate: float = 1.0,
        seed: int = 0,
        tolerance: float = 10.0,
        reporter: mm.MinimizationReporter | None = None,
    ) -> Entry:
        """Start from a frame: place all atoms, minimise, draw velocities, equilibrate.

        Parameters
        ----------
        backbone : array [N, 3, 3]
            N, CA, C, nm.
        torsions : array [N, 5], optional
            ψ and χ1..4, radians; side chains keep the input's angles without.
        minimize : int or None
            Most iterations; 0 for none, None to convergence. Before the first, overlaps of side chains are relieved
            while the backbone is held.
        equilibrate : float
            ps of dynamics after that, which count for nobody's clock.
        seed : int
            Of velocities, thermostat and barostat, which depend on nothing else.
        tolerance : float
            kJ/mol/nm, root mean square of the force where minimisation ends.
        reporter : openmm.MinimizationReporter, optional

        Returns
        -------
        Entry

        Raises
        ------
        RuntimeError
            If the energy is not finite even after minimisation; names the closest atoms.
        """
        began = time.perf_counter()
        positions, displaced = self._place(np.asarray(backbone, dtype=np.float64), torsions)
        self._begin(positions, seed)
        placed, before = self.positions(), self.energy()
        marks = [time.perf_counter()]
        after = self._minimize(placed, before, minimize, tolerance, reporter)
        marks.append(time.perf_counter())
        relaxed = self.backbone()
        self.simulation.context.setVelocitiesToTemperature(
            self.settings.temperature * unit.kelvin, openmm_seed(seed, "velocities")
        )
        self._run(equilibrate)
        marks.append(time.perf_counter())
        spent = np.diff([began, *marks])
        return Entry(
            energy_placed=before,
            energy_minimized=after,
            moved=aligned_rmsd(relaxed, placed[self.backbone_atoms]),
            backbone=relaxed,
            displaced=displaced,
            seconds=dict(zip(("place", "minimize", "equilibrate"), spent.tolist(), strict=True)),
        )

    def energy(self) -> float:
        """Potential energy, kJ/mol."""
        state = self.simulation.context.getState(energy=True)
        return state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)

    def positions(self) -> np.ndarray:
        """Positions [atoms, 3], nm, the protein in one piece across the box."""
        state = self.simulation.context.getState(positions=True)
        found = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        if self._surroundings is not None:
            vectors = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            found = self._surroundings.gather(found, vectors)
        return found

    def backbone(self) -> np.ndarray:
        """N, CA, C [N, 3, 3], nm."""
        return self.positions()[self.backbone_atoms]

    def torsions(self) -> np.ndarray:
        """φ, ψ, ω, χ1..4 [N, 7], radians, as :meth:`AllAtomModel.measure` gives them."""
        return self.model.measure(self.positions())[1]

    def _place(self, backbone: np.ndarray, torsions: np.ndarray | None) -> tuple[np.ndarray, int]:
        """All atoms [atoms, 3] of a frame, nm, and the number of solvent molecules displaced."""
        others = self.model.others
        if len(others):
            rotation, shift = aligned(backbone[:, 1], self._built[self.backbone_atoms[:, 1]])
            backbone = backbone @ rotation.T + shift
        positions = self.model.place(backbone, torsions)
        positions[others] = self._built[others]
        return (positions, 0) if self._surroundings is None else self._surroundings.displace(positions)

    def _begin(self, positions: np.ndarray, seed: int) -> None:
        """Put all atoms there, with all that is random depending on the seed alone."""
        context = self.simulation.context
        reseed(self.simulation, seed, self._parameters)
        if self._surroundings is not None:
            context.setPeriodicBoxVectors(*self._surroundings.vectors)
        context.setPositions(positions)
        context.computeVirtualSites()

    def _minimize(
        self,
        placed: np.ndarray,
        before: float,
        iterations: int | None,
        tolerance: float,
        reporter: mm.MinimizationReporter | None,
    ) -> float:
        """Minimise from positions `placed` of energy `before`; the energy after, kJ/mol."""
        context, after, why = self.simulation.context, before, ""
        try:
            if iterations is None or iterations > 0:
                relieve_overlaps(context, self._side_chains)
                mm.LocalEnergyMinimizer.minimize(context, tolerance, iterations or 0, reporter)
                after = self.energy()
            else:
                context.applyConstraints(1e-5)
        except mm.OpenMMException as error:
            after, why = math.nan, f" ({error})"
        if not np.isfinite(after):
            where = closest_atoms(self.model.topology, placed, self.model.heavy)
            raise RuntimeError(f"the force field cannot start from this frame: its energy is {after}{why}. {where}")
        return after

    def _run(self, picoseconds: float) -> None:
        steps = round(picoseconds / self.settings.timestep)
        for done in range(0, steps, _CHUNK):
            self.simulation.integrator.step(min(_CHUNK, steps - done))

    def _equilibrate_solvent(self) -> None:
        """Fit new water to the protein, once."""
        self.enter(self.protein.backbone, minimize=200, equilibrate=self.settings.relaxation)
        self._built = self.positions()
        if self._surroundings is not None:
            self._surroundings.take_box(self.simulation.context)


def _build(protein: Protein, settings: ClassicalSettings) -> tuple[AllAtomModel, mm.System]:
    """All atoms of a protein, solvent included, and their System."""
    from openmm_starmd.atoms.allatom import AllAtomModel

    forcefield = settings.load_forcefield()
    model = AllAtomModel.build(protein, forcefield)
    if settings.solvent != "explicit":
        return model, implicit_system(model.topology, forcefield, settings.hydrogen_mass, settings.solvent)
    topology, positions, system = solvated(
        model.topology,
        model.positions,
        forcefield,
        hydrogen_mass=settings.hydrogen_mass,
        padding=settings.padding,
        ionic_strength=settings.ionic_strength,
        water=settings.water,
        pressure=settings.pressure,
        temperature=settings.temperature,
    )
    return AllAtomModel.from_topology(protein, topology, positions), system


def _beside_the_backbone(simulation: app.Simulation, names: list[dict[str, int]]) -> np.ndarray:
    """Which atoms may move while overlaps are relieved, [atoms], bool: all but the backbone, and what has no mass.

    `names` are the heavy atoms of each residue of the protein.
    """
    held = {atoms[name] for atoms in names for name in BACKBONE}
    # a hydrogen that moved would drag the backbone along by its constraint
    pairs = [(first.index, second.index) for first, second in simulation.topology.bonds()]
    riders = {pair[0] if pair[1] in held else pair[1] for pair in pairs if held & set(pair)}
    held |= {atom.index for atom in simulation.topology.atoms() if atom.index in riders and _is_hydrogen(atom)}
    masses = [simulation.system.getParticleMass(index)._value for index in range(simulation.system.getNumParticles())]
    free = np.array(masses) > 0  # not frozen atoms and virtual sites
    free[list(held)] = False
    return free


def _is_hydrogen(atom: app.topology.Atom) -> bool:
    return atom.element is app.element.hydrogen


def _digest(thing: mm.System | mm.Integrator) -> str:
    # the XML of a CustomIntegrator holds its variables, which change as it runs
    changing = isinstance(thing, (mm.CustomIntegrator, mm.CompoundIntegrator))
    text = type(thing).__name__ if changing else mm.XmlSerializer.serialize(thing)
    return hashlib.sha256(text.encode()).hexdigest()


def openmm_seed(seed: int, purpose: str) -> int:
    """A seed that OpenMM takes, in [1, 2^31)."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % (2**31 - 1) + 1


def reseed(simulation: app.Simulation, seed: int, parameters: Mapping[str, float]) -> None:
    """Make all that is random from here on depend on `seed` alone.

    OpenMM reads seeds when it makes its kernels, so the Context is reinitialised, which costs milliseconds: positions,
    velocities and the box are to be set after it.

    Parameters
    ----------
    simulation : openmm.app.Simulation
    seed : int
    parameters : mapping of str to float
        Context parameters to set again.
    """
    if hasattr(simulation.integrator, "setRandomNumberSeed"):
        simulation.integrator.setRandomNumberSeed(openmm_seed(seed, "integrator"))
    for index, force in enumerate(simulation.system.getForces()):
        if hasattr(force, "setRandomNumberSeed"):
            force.setRandomNumberSeed(openmm_seed(seed, f"force {index}"))
    simulation.context.reinitialize()
    for name, value in parameters.items():
        simulation.context.setParameter(name, value)
