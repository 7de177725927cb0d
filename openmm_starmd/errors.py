"""Warnings of the package. What a user got wrong is a ValueError."""

from __future__ import annotations

from typing import Any, NoReturn


class StarMDWarning(UserWarning):
    """Something runs, but means less than it seems to: no energies here, an input unlike the training set."""


class Uncopiable:
    """Raises a TypeError where Python would copy or pickle: a network and a Context cannot follow."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a StarMD simulation cannot be copied or pickled, for it holds a network and a Context: save it with "
            "simulation.saveCheckpoint() and load that into a simulation made from the same input"
        )

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(2)

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__reduce_ex__(2)
