"""Learned frames, a stretch of classical MD, learned frames again: one trajectory, one clock.

    python examples/hybrid.py protein.pdb

Without an argument it runs villin from the openmm package. Where it is started it writes topology.pdb and
trajectory.dcd, in which classical frames follow learned ones 1 ps apart, all_atoms.dcd with its all_atoms.pdb, which
holds the classical stretch with hydrogens, and verdict.json.
"""

import os
import sys

import openmm.app
from openmm.app import DCDReporter, PDBFile, StateDataReporter
from openmm.unit import picosecond, picoseconds

from openmm_starmd import StarMDSimulation

FRAMES = int(os.environ.get("FRAMES", "20"))
STRIDES = int(os.environ.get("STRIDES", "3"))
villin = os.path.join(os.path.dirname(openmm.app.__file__), "data", "test.pdb")

pdb = PDBFile(sys.argv[1] if len(sys.argv) > 1 else villin)
simulation = StarMDSimulation(pdb.topology, pdb.positions, stride=1 * picosecond, seed=1)
with open("topology.pdb", "w") as file:
    PDBFile.writeFile(simulation.topology, simulation.context.getState(positions=True).getPositions(), file)
simulation.reporters.append(DCDReporter("trajectory.dcd", 1))
simulation.reporters.append(StateDataReporter(sys.stdout, 1, step=True, time=True, speed=True))

simulation.step(FRAMES)

# is this frame a good one? A short segment on the side, which leaves the simulation where it is
verdict = simulation.validate(1 * picoseconds)
print(verdict)
verdict.save("verdict.json")

# the same reporters go on; md is the all-atom Simulation, with reporters of its own
with simulation.classical(minimize=50) as md:
    with open("all_atoms.pdb", "w") as file:
        PDBFile.writeFile(md.topology, md.context.getState(positions=True).getPositions(), file)
    md.reporters.append(DCDReporter("all_atoms.dcd", 50))
    simulation.step(STRIDES)

simulation.step(FRAMES)
