"""Runs on a grid in one OpenMM Context, each as if alone: where they stand, how they move, who is to blame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import openmm as mm

from openmm_starmd.atoms.systems import MoleculeTerms, joined_system
from openmm_starmd.classical.recording import Recorder
from openmm_starmd.classical.replicas import Protocol, make_context, make_integrator, positions_and_velocities

BOUND = 50.0
"""nm from the origin within which all coordinates stay: single precision knows them to 4e-6 nm there."""
_MARGIN = 2.0  # nm that a protein may move and grow by before its neighbours' cutoff is reached
_ASTRAY = 0.5  # nm off its place, beyond which a protein is put back
_TIGHT = 1.0  # nm of the margin left, at which the grid is laid anew
_CHECK = 10.0  # ps between looks at where the proteins are, at most
_HOT = 3.0  # times the temperature of the bath: an explosion, not a fluctuation
_GAS_CONSTANT = 0.00831446261815324  # kJ/mol/K


@dataclass(eq=False)
class Member:
    """One replica in company.

    Attributes
    ----------
    label : str
        ``NAME R1``.
    recorder : Recorder
    terms : MoleculeTerms
    positions, velocities : np.ndarray [atoms, 3]
        As of the last whole frame, the first about the member's place; no velocities before the equilibration.
    """

    label: str
    recorder: Recorder
    terms: MoleculeTerms
    positions: np.ndarray
    velocities: np.ndarray | None

    @property
    def radius(self) -> float:
        """Distance of the outermost atom from the centre, nm."""
        return _radius(self.positions - self.positions.mean(0))

    def save(self) -> None:
        """Bring what there is to the disk."""
        self.recorder.forget_partial()
        if self.velocities is not None:
            self.recorder.save(self.positions, self.velocities)


class Trouble(Exception):  # noqa: N818 - not an error of the program
    """What went wrong in a company, and with whom.

    Parameters
    ----------
    blamed : dict of Member to str
        Why, for each; empty where it is not clear whose fault it is.
    message : str
        OpenMM's.
    """

    def __init__(self, blamed: dict[Member, str], message: str = "") -> None:
        super().__init__(message)
        self.blamed = blamed


class Company:
    """Members on a grid in one Context.

    Parameters
    ----------
    members : list of Member
    protocol : Protocol
    platform, threads
        As :func:`~openmm_starmd.classical.replicas.make_context` takes them.
    seed : int

    Attributes
    ----------
    positions, velocities : list of np.ndarray [atoms, 3]
        Of each member, where it stands; positions about its place, nm, nm/ps.
    spacing : float
        nm between neighbours.
    """

    def __init__(
        self, members: list[Member], protocol: Protocol, platform: str | None, threads: int, seed: int
    ) -> None:
        self.members, self._protocol, self._seed = list(members), protocol, seed
        ends = np.cumsum([0, *(m.terms.size for m in members)])
        self._spans = [slice(first, end) for first, end in pairwise(ends)]
        self._masses = [np.array(m.terms.masses) for m in members]
        self._freedom = [3 * m.terms.size - len(m.terms.constraints) for m in members]
        system = joined_system([m.terms for m in members])
        self._integrator = make_integrator(protocol, seed)
        self._context = make_context(system, self._integrator, platform, threads)
        self._places: np.ndarray = np.zeros((len(members), 3))
        self.spacing = 0.0
        self.positions = [m.positions - m.positions.mean(0) for m in members]
        self._lay()
        self.velocities = [np.zeros_like(m.positions) if m.velocities is None else m.velocities for m in members]
        self._context.setVelocities(np.concatenate(self.velocities))

    def warm(self) -> None:
        """Draw velocities at the temperature of the bath."""
        self._context.setVelocitiesToTemperature(self._protocol.temperature, self._seed)
        _, velocities = positions_and_velocities(self._context)
        self.velocities = [velocities[span] for span in self._spans]

    def keep(self) -> None:
        """Have every member stand where it now is."""
        for member, positions, velocities in zip(self.members, self.positions, self.velocities, strict=True):
            member.positions, member.velocities = positions, velocities

    def advance(self, steps: int) -> None:
        """Move all members by so many steps; a Trouble names those that exploded, if it is clear who did."""
        most = max(1, round(_CHECK / self._protocol.timestep))
        while steps:
            part = min(steps, most)
            try:
                self._integrator.step(part)
                positions, velocities = positions_and_velocities(self._context)
            except mm.OpenMMException as error:
                raise Trouble(self._not_finite(), str(error)) from error
            self._check(positions, velocities)
            self.positions = [positions[span] - place for span, place in zip(self._spans, self._places, strict=True)]
            self.velocities = [velocities[span] for span in self._spans]
            self._put_back()
            steps -= part

    def _not_finite(self) -> dict[Member, str]:
        """Members whose atoms are nowhere, after OpenMM gave up."""
        try:
            positions, velocities = positions_and_velocities(self._context)
            self._check(positions, velocities)
        except Trouble as trouble:
            return trouble.blamed
        except mm.OpenMMException:
            pass
        return {}

    def _check(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Raise a Trouble for members that are nowhere or hotter than any fluctuation makes them."""
        blamed = {}
        for index, (member, span) in enumerate(zip(self.members, self._spans, strict=True)):
            if not (np.isfinite(positions[span]).all() and np.isfinite(velocities[span]).all()):
                blamed[member] = "its coordinates became NaN"
                continue
            kinetic = (self._masses[index][:, None] * velocities[span] ** 2).sum()
            temperature = kinetic / (self._freedom[index] * _GAS_CONSTANT)
            if temperature > _HOT * self._protocol.temperature:
                blamed[member] = f"it exploded (temperature {temperature:.3g} K)"
        if blamed:
            raise Trouble(blamed)

    def _put_back(self) -> None:
        """Shift members that have strayed back to their places, as wholes; velocities stay as they are."""
        centres = [positions.mean(0) for positions in self.positions]
        astray = [index for index, centre in enumerate(centres) if np.linalg.norm(centre) > _ASTRAY]
        for index in astray:
            self.positions[index] = self.positions[index] - centres[index]
        if max(map(_radius, self.positions)) > (self.spacing - _cutoff(self._protocol)) / 2 - _TIGHT:
            self.positions = [positions - positions.mean(0) for positions in self.positions]
            self._lay()
        elif astray:
            self._place()

    def _lay(self) -> None:
        """Lay a grid on which nobody is within the cutoff of anybody; blames the widest if there is no room for it."""
        radii = [_radius(positions) for positions in self.positions]
        if capacity(radii, self._protocol) < len(radii):
            widest = int(np.argmax(radii))
            raise Trouble(
                {
                    self.members[
                        widest
                    ]: f"it unfolded to {2 * radii[widest]:.1f} nm across, for which the grid has no "
                    f"room within {BOUND:g} nm of the origin: fewer per Context, or alone with the same cutoff"
                }
            )
        self.spacing = _spacing(max(radii), self._protocol)
        side = int(np.ceil(len(radii) ** (1 / 3) - 1e-9))
        sites = np.stack(np.unravel_index(np.arange(len(radii)), (side, side, side)), axis=-1)
        self._places = (sites - (side - 1) / 2) * self.spacing
        self._place()

    def _place(self) -> None:
        shifted = [positions + place for positions, place in zip(self.positions, self._places, strict=True)]
        self._context.setPositions(np.concatenate(shifted))


def _radius(positions: np.ndarray) -> float:
    """Distance of the outermost atom from the origin, nm."""
    return float(np.sqrt((positions**2).sum(-1).max()))


def _cutoff(protocol: Protocol) -> float:
    assert protocol.cutoff is not None
    return protocol.cutoff


def _spacing(radius: float, protocol: Protocol) -> float:
    """Distance between the places of neighbours of at most this radius, nm."""
    return 2 * (radius + _MARGIN) + _cutoff(protocol)


def capacity(radii: Sequence[float], protocol: Protocol) -> int:
    """How many of such members have room in one Context; 0 if the largest alone has none."""
    radius = max(radii)
    room = 2 * (BOUND - radius - _MARGIN)
    return (int(room // _spacing(radius, protocol)) + 1) ** 3 if room >= 0 else 0
