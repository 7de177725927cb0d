"""ClassicalModel: the all-atom simulation behind a protein, built once and entered from any frame."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd.atoms.relaxing import closest_atoms, settle
from openmm_starmd.atoms.systems import implicit_system
from openmm_starmd.classical.settings import ClassicalSettings
from openmm_starmd.classical.solvent import make_way, movable_molecules, solvated
from openmm_starmd.geometry.residues import BACKBONE
from openmm_starmd.geometry.superposition import fitted, rmsd
from openmm_starmd.protein.periodic import make_whole
from openmm_starmd.protein.selection import PEPTIDE_BOND
from openmm_starmd.quantities import whole_number

if TYPE_CHECKING:
    from openmm_starmd.atoms.allatom import AllAtomModel
    from openmm_starmd.classical.segment import Segment
    from openmm_starmd.protein.protein import Protein


_CHUNK = 50  # steps between chances for Python to notice a Ctrl-C


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
        from openmm_starmd.atoms.allatom import AllAtomModel

        began = time.perf_counter()
        settings = settings or ClassicalSettings()
        platform = settings.platform_arguments()
        forcefield = settings.load_forcefield()
        model = AllAtomModel.build(protein, forcefield)
        if settings.solvent == "explicit":
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
            model = AllAtomModel.from_topology(protein, topology, positions)
        else:
            system = implicit_system(model.topology, forcefield, settings.hydrogen_mass, settings.solvent)
        self._set_up(settings, model, AllAtomSimulation(model.topology, system, settings.make_integrator(), *platform))
        if settings.solvent == "explicit":
            self._relax()
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
        self._rest = np.array(model.positions, dtype=np.float64)
        self._parameters = dict(simulation.context.getParameters())
        frame = model.protein.frame_topology("heavy")
        self._names = [{atom.name: int(model.heavy[atom.index]) for atom in r.atoms()} for r in frame.residues()]
        self._owner = np.array([atom.residue.index for atom in frame.atoms()])
        self.backbone_atoms = np.array([[atoms[name] for name in ("N", "CA", "C")] for atoms in self._names])
        held = {names[name] for names in self._names for name in BACKBONE}
        # a hydrogen that moved would drag the backbone along by its constraint
        pairs = [(first.index, second.index) for first, second in simulation.topology.bonds()]
        riders = {pair[0] if pair[1] in held else pair[1] for pair in pairs if held & set(pair)}
        held |= {atom.index for atom in simulation.topology.atoms() if atom.index in riders and _is_hydrogen(atom)}
        self._side_chains = np.ones(len(self._rest), dtype=bool)
        self._side_chains[list(held)] = False
        masses = [simulation.system.getParticleMass(index)._value for index in range(len(self._rest))]
        self._side_chains &= np.array(masses) > 0  # frozen atoms and virtual sites
        self._vectors = _box_of(simulation.context) if simulation.system.usesPeriodicBoundaryConditions() else None
        self._molecules: list[np.ndarray] = []
        self._movable: list[np.ndarray] = []
        if self._vectors is not None:
            protein = set(model.heavy.tolist())
            molecules = [np.array(molecule) for molecule in simulation.context.getMolecules()]
            self._molecules = [molecule for molecule in molecules if not protein.isdisjoint(molecule.tolist())]
            self._movable = movable_molecules(simulation.topology, model.others)
        movable = set(np.concatenate(self._movable).tolist()) if self._movable else set()
        self._solute = np.array(
            [
                atom.index
                for atom in simulation.topology.atoms()
                if atom.index not in movable and atom.element not in (None, app.element.hydrogen)
            ]
        )

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
            Most iterations; 0 for none, None to convergence. Before the first, side chains get out of each other's
            way while the backbone is held.
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
        backbone = np.asarray(backbone, dtype=np.float64)
        context = self.simulation.context
        others = self.model.others
        if len(others):
            target = self._rest[self.backbone_atoms[:, 1]]
            rotation, shift = fitted(backbone[:, 1], target)
            backbone = backbone @ rotation.T + shift
        positions = self.model.place(backbone, torsions)
        positions[others] = self._rest[others]
        displaced = 0
        if self._vectors is not None:
            positions, displaced = make_way(positions, self._solute, self._movable, self._vectors)
        reseed(self.simulation, seed, self._parameters)
        if self._vectors is not None:
            context.setPeriodicBoxVectors(*self._vectors)
        context.setPositions(positions)
        context.computeVirtualSites()
        placed, before = self.positions(), self.energy()
        marks = [time.perf_counter()]
        after, why = before, ""
        try:
            if minimize is None or minimize > 0:
                settle(context, self._side_chains)
                mm.LocalEnergyMinimizer.minimize(context, tolerance, minimize or 0, reporter)
                after = self.energy()
            else:
                context.applyConstraints(1e-5)
        except mm.OpenMMException as error:
            after, why = math.nan, f" ({error})"
        if not np.isfinite(after):
            where = closest_atoms(self.model.topology, placed, self.model.heavy)
            raise RuntimeError(f"the force field cannot start from this frame: its energy is {after}{why}. {where}")
        marks.append(time.perf_counter())
        relaxed = self.backbone()
        context.setVelocitiesToTemperature(self.settings.temperature * unit.kelvin, openmm_seed(seed, "velocities"))
        self._run(equilibrate)
        marks.append(time.perf_counter())
        spent = np.diff([began, *marks])
        return Entry(
            energy_placed=before,
            energy_minimized=after,
            moved=rmsd(relaxed, placed[self.backbone_atoms]),
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
        if len(self._molecules) > 1:
            vectors = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            found = self._gathered(found, vectors)
        return found

    def backbone(self) -> np.ndarray:
        """N, CA, C [N, 3, 3], nm."""
        return self.positions()[self.backbone_atoms]

    def torsions(self) -> np.ndarray:
        """φ, ψ, ω, χ1..4 [N, 7], radians, as :meth:`AllAtomModel.measure` gives them."""
        return self.model.measure(self.positions())[1]

    def _gathered(self, positions: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Each molecule of the protein, whole already, in the image that lies beside the others."""
        heavy = self.model.heavy
        rank = np.empty(len(positions), dtype=int)
        rank[heavy] = np.arange(len(heavy))
        chain = np.array([residue.chain.index for residue in self.protein.topology.residues()])
        whole = make_whole(positions[heavy], self._owner, rank[self.backbone_atoms], chain, vectors, PEPTIDE_BOND)
        moved = np.zeros_like(positions)
        moved[heavy] = whole - positions[heavy]
        positions = positions.copy()
        for molecule in self._molecules:
            positions[molecule] += moved[np.intersect1d(molecule, heavy)[0]]
        return positions

    def _relax(self) -> None:
        """Fit new water to the protein, once."""
        self.enter(self.protein.backbone, minimize=200, equilibrate=self.settings.relaxation)
        self._rest = self.positions()
        self._vectors = _box_of(self.simulation.context)

    def _run(self, picoseconds: float) -> None:
        steps = round(picoseconds / self.settings.timestep)
        for done in range(0, steps, _CHUNK):
            self.simulation.integrator.step(min(_CHUNK, steps - done))


def _is_hydrogen(atom: app.topology.Atom) -> bool:
    return atom.element is app.element.hydrogen


def _digest(thing: mm.System | mm.Integrator) -> str:
    # a program's variables, which a CustomIntegrator's XML holds, are not what it is
    changing = isinstance(thing, (mm.CustomIntegrator, mm.CompoundIntegrator))
    text = type(thing).__name__ if changing else mm.XmlSerializer.serialize(thing)
    return hashlib.sha256(text.encode()).hexdigest()


def _box_of(context: mm.Context) -> np.ndarray:
    return context.getState().getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)


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
        Waters and ions that made way for the protein.
    seconds : dict of str to float
        Spent on ``place``, ``minimize`` and ``equilibrate``.
    """

    energy_placed: float
    energy_minimized: float
    moved: float
    backbone: np.ndarray = field(repr=False)
    displaced: int
    seconds: dict[str, float] = field(repr=False)


class AllAtomSimulation(app.Simulation):
    """A classical Simulation of all atoms, which a segment of a StarMDSimulation may be running in.

    Attributes
    ----------
    segment : Segment or None
        While there is one, each whole stride that ``step()`` completes becomes a frame of the StarMDSimulation.
    """

    segment: Segment | None = None

    def step(self, steps: int) -> None:
        """Advance by `steps` time steps."""
        if self.segment is None:
            super().step(whole_number(steps))
        else:
            self.segment.step_inside(whole_number(steps))


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
