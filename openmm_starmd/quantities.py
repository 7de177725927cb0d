"""What users hand over, checked and stripped of units."""

from __future__ import annotations

from typing import Any

import numpy as np
from openmm import unit


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
