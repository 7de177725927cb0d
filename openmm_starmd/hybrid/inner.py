"""The classical Simulation that a segment runs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmm import app

from openmm_starmd.quantities import whole_number

if TYPE_CHECKING:
    from openmm_starmd.hybrid.segment import Segment


class AllAtomSimulation(app.Simulation):
    """A classical Simulation of all atoms, which a segment of a StarMDSimulation may be running in.

    Attributes
    ----------
    segment : Segment or None
        While there is one, each whole stride that ``step()`` completes becomes a frame of the StarMDSimulation.
    """

    segment: Segment | None = None

    def step(self, steps: int) -> None:
        """Advance by `steps` time steps."""
        if self.segment is None:
            super().step(whole_number(steps))
        else:
            self.segment.step_inside(whole_number(steps))
