"""Taking over a classical simulation that exists: its System for segments, and a list of what frames cannot honour."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd.classical.model import AllAtomSimulation, ClassicalModel
from openmm_starmd.classical.settings import ClassicalSettings, copy_integrator

if TYPE_CHECKING:
    from openmm_starmd.protein.protein import Protein

# forces of force fields, thermostats and bookkeeping, whose effect is in the learned frames
_ORDINARY = frozenset(
    "HarmonicBondForce HarmonicAngleForce PeriodicTorsionForce RBTorsionForce CMAPTorsionForce NonbondedForce "
    "CustomNonbondedForce GBSAOBCForce CustomGBForce GayBerneForce CMMotionRemover AndersenThermostat DrudeForce "
    "AmoebaMultipoleForce AmoebaVdwForce AmoebaTorsionTorsionForce AmoebaGeneralizedKirkwoodForce "
    "AmoebaWcaDispersionForce HippoNonbondedForce".split()
)
# force fields use these too, so that a restraint made of one cannot be told apart
_AMBIGUOUS = frozenset("CustomBondForce CustomAngleForce CustomTorsionForce CustomCompoundBondForce".split())
_PROPERTIES = ("Threads", "Precision", "DeviceIndex", "DeterministicForces", "UseCpuPme", "OpenCLPlatformIndex")


def positions_of(simulation: app.Simulation) -> tuple[app.Topology, np.ndarray]:
    """Topology with the Context's present box, and its positions [atoms, 3] in nm."""
    try:
        state = simulation.context.getState(positions=True)
    except mm.OpenMMException as error:
        raise ValueError(
            f"the simulation has no positions ({error}): call simulation.context.setPositions()"
        ) from error
    topology = copy.deepcopy(simulation.topology)
    if simulation.system.usesPeriodicBoundaryConditions():
        topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    if not positions.any():
        raise ValueError("every atom is at the origin: call simulation.context.setPositions() first")
    return topology, positions


def adopt(
    simulation: app.Simulation, protein: Protein, topology: app.Topology, positions: np.ndarray, temperature: float
) -> ClassicalModel:
    """A model whose System, integrator, platform and solvent are those of a simulation.

    Parameters
    ----------
    simulation : openmm.app.Simulation
        Not changed: System and integrator are copied, and the Context is a new one.
    protein : Protein
        Of that topology.
    topology : openmm.app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    temperature : float
        K, of the velocities that segments begin with where the integrator has no thermostat.

    Returns
    -------
    ClassicalModel

    Raises
    ------
    ValueError
        If the integrator has no constant time step or cannot be copied, or the protein lacks heavy atoms.
    """
    from openmm_starmd.atoms.allatom import AllAtomModel

    integrator = simulation.integrator
    if type(integrator).__name__.startswith("Variable"):
        raise ValueError(
            f"the integrator is a {type(integrator).__name__}, whose time steps vary; a frame needs a whole number "
            "of them: use LangevinMiddleIntegrator"
        )
    platform = simulation.context.getPlatform()
    known = [name for name in _PROPERTIES if name in platform.getPropertyNames()]
    properties = {name: platform.getPropertyValue(simulation.context, name) for name in known}
    settings = ClassicalSettings(
        solvent=None,
        integrator=copy_integrator(integrator),
        temperature=temperature,
        platform=platform,
        properties=properties,
    )
    model = AllAtomModel.from_topology(protein, topology, positions)
    own = AllAtomSimulation(
        topology, copy.deepcopy(simulation.system), copy_integrator(integrator), platform, properties or None
    )
    state = simulation.context.getState(parameters=True)
    own.context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
    for name, value in state.getParameters().items():
        own.context.setParameter(name, value)
    return ClassicalModel.adopt(settings, model, own)


def not_honoured(model: ClassicalModel, temperature: float) -> list[str]:
    """What a System asks for and learned frames do not do, one clause each.

    Parameters
    ----------
    model : ClassicalModel
    temperature : float
        K, that the weights were trained at.
    """
    system, integrator = model.simulation.system, model.simulation.integrator
    notes = []
    names = [type(force).__name__ for force in system.getForces()]
    barostats = [name for name in names if "Barostat" in name]
    if barostats:
        notes.append(f"the {barostats[0]}: the box stays as it is, and there is no pressure")
    certain = [_described(f) for f in system.getForces() if _is_extra(type(f).__name__)]
    if certain:
        notes.append(f"restraints and biases: {', '.join(certain)}")
    perhaps = [_described(f) for f in system.getForces() if type(f).__name__ in _AMBIGUOUS]
    if perhaps:
        notes.append(f"{', '.join(perhaps)}, unless part of the force field")
    for kelvin in sorted(_temperatures(system, integrator)):
        if abs(kelvin - temperature) > 0.5:
            notes.append(f"the thermostat's {kelvin:g} K: the weights were trained at {temperature:g} K")
    notes += _held_atoms(model, system)
    return notes


def _is_extra(name: str) -> bool:
    return name not in _ORDINARY and name not in _AMBIGUOUS and "Barostat" not in name


def _described(force: mm.Force) -> str:
    own, kind = force.getName(), type(force).__name__
    return kind if own == kind else f"{kind} {own!r}"


def _temperatures(system: mm.System, integrator: Any) -> set[float]:
    found = []
    if hasattr(integrator, "getTemperature"):
        found.append(integrator.getTemperature())
    for force in system.getForces():
        if isinstance(force, mm.AndersenThermostat):
            found.append(force.getDefaultTemperature())
    return {value.value_in_unit(unit.kelvin) for value in found}


def _held_atoms(model: ClassicalModel, system: mm.System) -> list[str]:
    """Protein atoms that the System holds in place or in a rigid shape."""
    heavy = set(model.model.heavy.tolist())
    notes = []
    virtual = [atom for atom in heavy if system.isVirtualSite(atom)]
    frozen = [atom for atom in heavy if atom not in virtual and system.getParticleMass(atom)._value == 0]
    if frozen:
        notes.append(f"{len(frozen)} frozen protein atoms (of zero mass): they move")
    if virtual:
        notes.append(f"{len(virtual)} virtual sites among the protein's heavy atoms")
    pairs = (system.getConstraintParameters(index)[:2] for index in range(system.getNumConstraints()))
    rigid = sum(first in heavy and second in heavy for first, second in pairs)
    if rigid:
        notes.append(f"{rigid} constraints between heavy atoms of the protein: bond lengths are learned")
    return notes
