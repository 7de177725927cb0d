"""Systems of all-atom proteins without a box: in implicit solvent, in vacuum, or several far apart in one System."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openmm as mm
from openmm import app, unit
from openmm.app.internal.customgbforces import GBSAOBC2Force

_IMPLICIT = ("GBSAOBCForce", "CustomGBForce", "AmoebaGeneralizedKirkwoodForce")


def implicit_system(
    topology: app.Topology, forcefield: app.ForceField, hydrogen_mass: float | None, solvent: str | None
) -> mm.System:
    """System of a protein without a box.

    Parameters
    ----------
    topology : openmm.app.Topology
        All atoms.
    forcefield : openmm.app.ForceField
    hydrogen_mass : float or None
        amu; None leaves masses as they are.
    solvent : {"obc2", None}
        None adds none to what the force field itself brings.

    Returns
    -------
    openmm.System
        No cutoff, bonds to hydrogen constrained.

    Raises
    ------
    ValueError
        If the force field does not know a residue, or does not go with "obc2".
    """
    mass = None if hydrogen_mass is None else hydrogen_mass * unit.dalton
    if solvent is None:
        return create_system(
            forcefield, topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, hydrogenMass=mass
        )
    try:
        system = obc2_system(topology, forcefield, hydrogen_mass)
    except StopIteration as error:
        raise ValueError(
            "the force field has no charges that OBC2 could use (no NonbondedForce): choose solvent=None or 'explicit'"
        ) from error
    except Exception as error:
        raise refusal(error) from error
    found = [force.getName() for force in system.getForces() if type(force).__name__ in _IMPLICIT]
    if len(found) > 1:
        raise ValueError(
            f"the force field brings implicit solvent of its own ({found[0]}): give solvent=None, which adds no other"
        )
    return system


def obc2_system(
    topology: app.Topology,
    forcefield: app.ForceField,
    hydrogen_mass: float | None,
    cutoff: float | None = None,
) -> mm.System:
    """System with the native OBC2 force, several times faster on CPUs than ``implicit/obc2.xml``.

    Parameters
    ----------
    topology : openmm.app.Topology
        Complete all-atom topology, hydrogens included.
    forcefield : openmm.app.ForceField
        Force field without an implicit solvent of its own.
    hydrogen_mass : float or None
        Mass of hydrogens in amu; None leaves masses as they are.
    cutoff : float, optional
        nm, of the NonbondedForce and of the solvent: plain truncation, without a reaction field. None is no cutoff.

    Returns
    -------
    openmm.System
        Bonds to hydrogen constrained, ``openmm.GBSAOBCForce`` filled with the NonbondedForce's charges and the OBC2
        radii and scales of Onufriev, Bashford and Case (2004).
    """
    mass = None if hydrogen_mass is None else hydrogen_mass * unit.dalton
    reach: dict[str, Any] = {"nonbondedMethod": app.NoCutoff}
    if cutoff is not None:
        reach = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": cutoff * unit.nanometer}
    system = forcefield.createSystem(topology, constraints=app.HBonds, hydrogenMass=mass, **reach)
    nonbonded = next(f for f in system.getForces() if isinstance(f, mm.NonbondedForce))
    nonbonded.setReactionFieldDielectric(1.0)
    solvent = mm.GBSAOBCForce()
    solvent.setNonbondedMethod(mm.GBSAOBCForce.NoCutoff)
    if cutoff is not None:
        solvent.setNonbondedMethod(mm.GBSAOBCForce.CutoffNonPeriodic)
        solvent.setCutoffDistance(cutoff)
    for index, (radius, scale) in enumerate(GBSAOBC2Force.getStandardParameters(topology)):
        charge = nonbonded.getParticleParameters(index)[0]
        solvent.addParticle(charge, radius, scale)
    system.addForce(solvent)
    return system


class MoleculeTerms:
    """What a System of :func:`obc2_system` holds, as plain numbers, to be copied into a common System quickly.

    Parameters
    ----------
    system : openmm.System
        With bonds, angles, periodic torsions, a NonbondedForce and a GBSAOBCForce, as amber14 makes it.

    Raises
    ------
    ValueError
        If it has a force of another kind, which the common System would lack.
    """

    def __init__(self, system: mm.System) -> None:
        self.system = system
        self.size = system.getNumParticles()
        self.masses = [_plain(system.getParticleMass(i)) for i in range(self.size)]
        constraints = (system.getConstraintParameters(i) for i in range(system.getNumConstraints()))
        self.constraints = [tuple(_plain(value) for value in one) for one in constraints]
        self.terms: dict[str, list[tuple[Any, ...]]] = {}
        for force in system.getForces():
            kind = type(force).__name__
            if kind == "CMMotionRemover":
                continue
            if kind not in _TERMS or kind in self.terms:
                raise ValueError(
                    f"the force field's {force.getName()} ({kind}) has no place in a System of several proteins"
                )
            count, getter = _TERMS[kind][:2]
            rows = (getattr(force, getter)(i) for i in range(getattr(force, count)()))
            self.terms[kind] = [tuple(_plain(value) for value in row) for row in rows]
            if kind == "NonbondedForce":
                rows = (force.getExceptionParameters(i) for i in range(force.getNumExceptions()))
                self.exceptions = [tuple(_plain(value) for value in row) for row in rows]


# per kind of force: how many terms, how to get and to add one, and how many of its first numbers are atoms
_TERMS = {
    "HarmonicBondForce": ("getNumBonds", "getBondParameters", "addBond", 2),
    "HarmonicAngleForce": ("getNumAngles", "getAngleParameters", "addAngle", 3),
    "PeriodicTorsionForce": ("getNumTorsions", "getTorsionParameters", "addTorsion", 4),
    "NonbondedForce": ("getNumParticles", "getParticleParameters", "addParticle", 0),
    "GBSAOBCForce": ("getNumParticles", "getParticleParameters", "addParticle", 0),
}


def joined_system(molecules: Sequence[MoleculeTerms]) -> mm.System:
    """One System of several molecules, in the order given.

    Parameters
    ----------
    molecules : sequence of MoleculeTerms
        Made with one cutoff. Beyond it the molecules do not feel each other, wherever the caller puts them.

    Returns
    -------
    openmm.System
        Every term as in the molecule's own System. Without a CMMotionRemover: it would take away the motion of the
        common centre of mass, which is nothing that any of the molecules alone has.

    Raises
    ------
    ValueError
        If they have no cutoff, or not the same one.
    """
    system = mm.System()
    first = molecules[0]
    forces: dict[str, mm.Force] = {}
    for force in first.system.getForces():
        kind = type(force).__name__
        if kind in first.terms:
            forces[kind] = getattr(mm, kind)()
            forces[kind].setForceGroup(force.getForceGroup())
            forces[kind].setName(force.getName())
    cutoffs = {_cutoff(molecule.system) for molecule in molecules}
    if len(cutoffs) > 1 or None in cutoffs:
        raise ValueError(f"molecules in one System need one cutoff, not {cutoffs}")
    for kind in ("NonbondedForce", "GBSAOBCForce"):
        forces[kind].setNonbondedMethod(getattr(mm, kind).CutoffNonPeriodic)
        forces[kind].setCutoffDistance(cutoffs.copy().pop())
    forces["NonbondedForce"].setReactionFieldDielectric(1.0)

    offset = 0
    for molecule in molecules:
        for mass in molecule.masses:
            system.addParticle(mass)
        for one, other, length in molecule.constraints:
            system.addConstraint(one + offset, other + offset, length)
        for kind, rows in molecule.terms.items():
            adder, atoms = _TERMS[kind][2:]
            add = getattr(forces[kind], adder)
            for row in rows:
                add(*(index + offset for index in row[:atoms]), *row[atoms:])
        for one, other, *rest in molecule.exceptions:
            forces["NonbondedForce"].addException(one + offset, other + offset, *rest)
        offset += molecule.size
    for force in forces.values():
        system.addForce(force)
    return system


def _cutoff(system: mm.System) -> float | None:
    """Cutoff of a System's NonbondedForce, nm."""
    nonbonded = next(f for f in system.getForces() if isinstance(f, mm.NonbondedForce))
    cut = nonbonded.getNonbondedMethod() == mm.NonbondedForce.CutoffNonPeriodic
    return _plain(nonbonded.getCutoffDistance()) if cut else None


def _plain(value: Any) -> Any:
    """A number in OpenMM's own units, which its getters give as Quantities."""
    return value.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(value) else value


def create_system(forcefield: app.ForceField, topology: app.Topology, **options: Any) -> mm.System:
    """``forcefield.createSystem``, whose refusal becomes a ValueError that says what to do."""
    try:
        return forcefield.createSystem(topology, **options)
    except Exception as error:
        raise refusal(error) from error


def refusal(error: Exception) -> ValueError:
    """What to raise where a force field does not know a residue."""
    return ValueError(
        f"the force field refuses this model: {error} Give a force field that knows the residue, or leave the residue "
        "out of the input"
    )
