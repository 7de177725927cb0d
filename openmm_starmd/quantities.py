"""What users hand over, checked and stripped of units, and what their editors show them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import numpy as np
from openmm import unit

F = TypeVar("F", bound=Callable[..., Any])


def whole_number(steps: Any, what: str = "steps") -> int:
    """`steps` as an int >= 0, or a ValueError that calls it `what`."""
    try:
        whole = int(steps)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if whole != steps or whole < 0:
        raise ValueError(f"{what} is {steps!r}; it must be a whole number, at least 0")
    return whole


def in_unit(value: Any, of: unit.Unit) -> Any:
    """A Quantity, or a bare number or array already in `of`, as bare."""
    return value.value_in_unit(of) if unit.is_quantity(value) else value


def as_array(positions: Any) -> np.ndarray:
    """Positions, a Quantity or bare numbers in nm, as float64 [atoms, 3]."""
    try:
        array = np.array(in_unit(positions, unit.nanometer), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"positions are no array of numbers [atoms, 3] or Quantity of one: {error}") from error
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"positions have shape {array.shape}; expected [atoms, 3]")
    return np.ascontiguousarray(array)


def keywords_of(source: Callable[..., Any], *, leave_out: Collection[str] = ()) -> Callable[[F], F]:
    """Show what a function passes on: ``help()`` and completion list the keywords of `source` in place of its ``**``.

    Parameters
    ----------
    source : callable
        What the function hands its ``**`` to.
    leave_out : collection of str
        Parameters of `source` that the function gives itself.

    Returns
    -------
    callable
        A decorator, which leaves the function as it is but for the signature that it shows.
    """

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        mine = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        taken = {one.name for one in mine} | set(leave_out)
        more = [
            one.replace(kind=one.KEYWORD_ONLY)
            for one in inspect.signature(source).parameters.values()
            if one.name not in taken and one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        function.__signature__ = own.replace(parameters=[*mine, *more])  # type: ignore[attr-defined]
        return function

    return decorate
