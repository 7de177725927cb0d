"""Finding the propagator that a user asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from openmm_starmd.propagators.contract import Propagator

if TYPE_CHECKING:
    from openmm_starmd.protein.protein import Protein

GROUP = "openmm_starmd.propagators"
"""Group of entry points by whose names a propagator can be asked for."""


def find_propagator(
    choice: str | Propagator | Callable[..., Propagator], protein: Protein, *, stride: float, atoms: str
) -> Propagator:
    """The propagator that a user asked for.

    Parameters
    ----------
    choice : str, Propagator or callable
        The name of an entry point in the group ``openmm_starmd.propagators``, an object, or what makes one: a class or
        function called as ``choice(protein, stride=..., atoms=...)``, which is what an entry point names, too.
    protein : Protein
    stride : float
        ps.
    atoms : {"ca", "backbone", "heavy"}

    Returns
    -------
    Propagator

    Raises
    ------
    ValueError
        If there is no entry point of that name; lists those there are.
    TypeError
        If what results has not the two methods of a propagator; names those that are missing.
    """
    made: Any = choice
    if isinstance(choice, str):
        there = {point.name: point for point in entry_points(group=GROUP)}
        if choice not in there:
            known = f"there are {', '.join(sorted(there))}" if there else "no installed package brings one"
            raise ValueError(f"there is no propagator {choice!r}: {known} (entry points of the group {GROUP!r})")
        made = there[choice].load()
    if isinstance(made, type) or not isinstance(made, Propagator):
        if not callable(made):
            raise TypeError(f"propagator is a {type(made).__name__}, which {_lacking(made)}")
        made = made(protein, stride=stride, atoms=atoms)
    if not isinstance(made, Propagator):
        raise TypeError(f"the propagator made is a {type(made).__name__}, which {_lacking(made)}")
    return made


def _lacking(thing: Any) -> str:
    missing = [name for name in ("next_frame", "state") if not callable(getattr(thing, name, None))]
    return f"has no method {' and no method '.join(missing)}: see openmm_starmd.propagators.Propagator"
