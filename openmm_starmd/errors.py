"""Warnings of the package, what refuses to be copied, and Ctrl-C. What a user got wrong is a ValueError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Let a Ctrl-C that OpenMM's wrappers turned into another error go on as the KeyboardInterrupt it was.

    An interrupt that lands inside one of OpenMM's C++ calls (``getPerDofVariableByName`` for one) comes out of it as a
    SystemError caused by the KeyboardInterrupt.
    """
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise KeyboardInterrupt(*cause.args) from error
