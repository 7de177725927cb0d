"""Propagators: what makes the next frame of a simulation.

A :class:`Propagator` is shown the present frame and proposes the next; the integrator commits it. Learned frames are
one (:class:`~openmm_starmd.propagators.learned.LearnedPropagator`), a segment of classical MD is another
(:mod:`openmm_starmd.hybrid.segment`), and a third party's is a class with two methods, given as
``StarMDSimulation(..., propagator=)`` by itself or by the name of an entry point in the group
``openmm_starmd.propagators``. Reporters, checkpoints, exact restarts and ``alternate()`` come with the simulation.
:func:`check_propagator` tells an author what is wrong with one.
"""

from openmm_starmd.propagators.checking import check_propagator
from openmm_starmd.propagators.choice import GROUP, find_propagator
from openmm_starmd.propagators.contract import Present, Propagator, Proposal
from openmm_starmd.propagators.learned import LearnedPropagator

__all__ = ["GROUP", "LearnedPropagator", "Present", "Propagator", "Proposal", "check_propagator", "find_propagator"]
