"""What decides the all-atom System of classical segments and how it is integrated."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import openmm as mm
from openmm import app, unit

from openmm_starmd.quantities import in_unit

SOLVENTS = ("obc2", "explicit", None)
_UNITS = {
    "timestep": unit.picosecond,
    "hydrogen_mass": unit.dalton,
    "friction": unit.picosecond**-1,
    "temperature": unit.kelvin,
    "pressure": unit.bar,
    "padding": unit.nanometer,
    "ionic_strength": unit.molar,
    "relaxation": unit.picosecond,
}
_MAY_BE_ZERO = ("friction", "ionic_strength", "relaxation")
_MAY_BE_NONE = ("hydrogen_mass", "pressure")


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassicalSettings:
    """Settings of a :class:`~openmm_starmd.classical.model.ClassicalModel`.

    Attributes
    ----------
    forcefield : str, sequence of str or openmm.app.ForceField
        File names, or the object. By default ``"amber14-all.xml"``, with ``"amber14/tip3p.xml"`` in explicit solvent.
    solvent : {"obc2", "explicit", None}
        OBC2 by OpenMM's native force; a box of water; or nothing but what the force field itself brings (which may be
        implicit solvent, ``"implicit/gbn2.xml"``).
    timestep : Quantity or float
        Bare numbers in ps.
    hydrogen_mass : Quantity, float or None
        amu; None leaves masses as they are.
    friction, temperature : Quantity or float
        1/ps and K.
    pressure : Quantity, float or None
        bar, of a barostat in explicit solvent; None keeps the box.
    padding : Quantity or float
        nm of water around the protein in explicit solvent. Learned frames fluctuate: leave room.
    ionic_strength : Quantity or float
        mol/l, besides the ions that neutralise.
    water : str
        Water model of explicit solvent, as ``Modeller.addSolvent`` knows it.
    relaxation : Quantity or float
        ps by which new water is equilibrated once, when the model is built.
    integrator : openmm.Integrator, optional
        In place of LangevinMiddle with `timestep`, `friction` and `temperature`; it is copied.
    platform : str or openmm.Platform, optional
        OpenMM's choice by default.
    precision : {"single", "mixed", "double"}, optional
    properties : dict, optional
        Platform properties, ``{"Threads": "1"}``.
    """

    forcefield: str | Sequence[str] | app.ForceField | None = None
    solvent: str | None = "obc2"
    timestep: Any = 0.004
    hydrogen_mass: Any = 3.0
    friction: Any = 1.0
    temperature: Any = 300.0
    pressure: Any = None
    padding: Any = 1.2
    ionic_strength: Any = 0.0
    water: str = "tip3p"
    relaxation: Any = 2.0
    integrator: mm.Integrator | None = None
    platform: str | mm.Platform | None = None
    precision: str | None = None
    properties: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.solvent not in SOLVENTS:
            raise ValueError(f"solvent is {self.solvent!r}; choose 'obc2', 'explicit' or None")
        for name in _UNITS:
            self._put(name, _in_its_unit(name, getattr(self, name)))
        if self.pressure is not None and self.solvent != "explicit":
            raise ValueError("pressure needs solvent='explicit': without a box there is nothing to press on")
        if self.integrator is not None:
            if not isinstance(self.integrator, mm.Integrator):
                raise ValueError(f"integrator is a {type(self.integrator).__name__}, not an openmm.Integrator")
            if hasattr(self.integrator, "getTemperature"):
                self._put("temperature", self.integrator.getTemperature().value_in_unit(unit.kelvin))
            self._put("timestep", self.integrator.getStepSize().value_in_unit(unit.picosecond))
        if isinstance(self.platform, mm.Platform):
            self._put("platform", self.platform.getName())
        self._put("properties", {str(name): str(value) for name, value in (self.properties or {}).items()})
        if self.forcefield is None:
            extra = ("amber14/tip3p.xml",) if self.solvent == "explicit" else ()
            self._put("forcefield", ("amber14-all.xml", *extra))
        elif isinstance(self.forcefield, str):
            self._put("forcefield", (self.forcefield,))
        elif not isinstance(self.forcefield, app.ForceField):
            self._put("forcefield", tuple(self.forcefield))

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for settings that give the same model; objects count by identity."""
        plain = (getattr(self, name) for name in _UNITS)
        forcefield = self.forcefield if isinstance(self.forcefield, tuple) else id(self.forcefield)
        integrator = None if self.integrator is None else id(self.integrator)
        properties = tuple(sorted((self.properties or {}).items()))
        rest = (self.solvent, self.water, self.platform, self.precision, properties)
        return (forcefield, integrator, *plain, *rest)

    def load_forcefield(self) -> app.ForceField:
        """The ForceField; a ValueError names a file that is not there."""
        if isinstance(self.forcefield, app.ForceField):
            return self.forcefield
        files = tuple(self.forcefield or ())
        try:
            return app.ForceField(*files)
        except Exception as error:
            raise ValueError(f"no force field {' + '.join(files)}: {error}") from error

    def make_integrator(self) -> mm.Integrator:
        """A new integrator, bound to no Context."""
        if self.integrator is None:
            return mm.LangevinMiddleIntegrator(self.temperature, self.friction, self.timestep)
        return copy_integrator(self.integrator)

    def platform_arguments(self) -> tuple[mm.Platform | None, dict[str, str] | None]:
        """Platform and properties as openmm.app.Simulation takes them."""
        properties = dict(self.properties or {})
        if self.platform is None and not properties and self.precision is None:
            return None, None
        names = [mm.Platform.getPlatform(index).getName() for index in range(mm.Platform.getNumPlatforms())]
        name = self.platform
        if name is None:
            name = max(names, key=lambda one: mm.Platform.getPlatformByName(one).getSpeed())
        if name not in names:
            raise ValueError(f"platform is {name!r}; OpenMM has {', '.join(names)} here")
        platform = mm.Platform.getPlatformByName(name)
        if self.precision is not None:
            properties["Precision"] = self.precision
        known = platform.getPropertyNames()
        unknown = [one for one in properties if one not in known]
        if unknown:
            raise ValueError(
                f"platform {name} has no property {', '.join(unknown)}"
                + (f"; it has {', '.join(known)}" if known else "")
            )
        return platform, properties or None


def _in_its_unit(name: str, given: Any) -> float | None:
    """A setting as a number in its unit, or a ValueError that names it."""
    if given is None and name in _MAY_BE_NONE:
        return None
    of = _UNITS[name]
    try:
        value = float(in_unit(given, of))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {given!r}; give a quantity, or a number of {of.get_name()}") from error
    if not 0 <= value < float("inf") or (value == 0 and name not in _MAY_BE_ZERO):
        raise ValueError(f"{name} is {given}; it must be positive and finite")
    return value


def copy_integrator(integrator: mm.Integrator) -> mm.Integrator:
    """A copy bound to no Context; a ValueError for what OpenMM cannot serialise."""
    try:
        return copy.deepcopy(integrator)
    except Exception as error:
        raise ValueError(
            f"the {type(integrator).__name__} cannot be copied ({error}): give an integrator that OpenMM can serialise"
        ) from error


def inner_steps(stride: float, timestep: float) -> int:
    """Time steps in a stride.

    Parameters
    ----------
    stride, timestep : float
        ps.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is no whole number; names the nearest time step that fits.
    """
    steps = round(stride / timestep)
    if steps < 1 or abs(steps * timestep - stride) > 1e-6 * stride:
        fitting = max(1, -int(-stride // timestep))
        raise ValueError(
            f"a stride of {stride:g} ps is no whole number of time steps of {timestep:g} ps: "
            f"timestep={stride / fitting:.6g} fits, the nearest below"
        )
    return steps


class ClassicalOptions(TypedDict, total=False):
    """The fields of :class:`ClassicalSettings`, as keywords; those left out have its defaults."""

    forcefield: str | Sequence[str] | app.ForceField | None
    solvent: str | None
    timestep: Any
    hydrogen_mass: Any
    friction: Any
    temperature: Any
    pressure: Any
    padding: Any
    ionic_strength: Any
    water: str
    relaxation: Any
    integrator: mm.Integrator | None
    platform: str | mm.Platform | None
    precision: str | None
    properties: Mapping[str, str] | None
