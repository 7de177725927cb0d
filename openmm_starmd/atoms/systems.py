"""Systems of an all-atom protein without a box: in implicit solvent, or in vacuum."""

from __future__ import annotations

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


def obc2_system(topology: app.Topology, forcefield: app.ForceField, hydrogen_mass: float | None) -> mm.System:
    """System with the native OBC2 force, several times faster on CPUs than ``implicit/obc2.xml``.

    Parameters
    ----------
    topology : openmm.app.Topology
        Complete all-atom topology, hydrogens included.
    forcefield : openmm.app.ForceField
        Force field without an implicit solvent of its own.
    hydrogen_mass : float or None
        Mass of hydrogens in amu; None leaves masses as they are.

    Returns
    -------
    openmm.System
        No cutoff, bonds to hydrogen constrained, ``openmm.GBSAOBCForce`` filled with the NonbondedForce's
        charges and the OBC2 radii and scales of Onufriev, Bashford and Case (2004).
    """
    mass = None if hydrogen_mass is None else hydrogen_mass * unit.dalton
    system = forcefield.createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, hydrogenMass=mass)
    nonbonded = next(f for f in system.getForces() if isinstance(f, mm.NonbondedForce))
    nonbonded.setReactionFieldDielectric(1.0)
    solvent = mm.GBSAOBCForce()
    solvent.setNonbondedMethod(mm.GBSAOBCForce.NoCutoff)
    for index, (radius, scale) in enumerate(GBSAOBC2Force.getStandardParameters(topology)):
        charge = nonbonded.getParticleParameters(index)[0]
        solvent.addParticle(charge, radius, scale)
    system.addForce(solvent)
    return system


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
