"""A hundred frames of a protein with STAR-MD, written by OpenMM's own reporters.

    python examples/run_protein.py protein.pdb

Without an argument it runs villin, solvent and all, from the openmm package. Where it is started it writes
topology.pdb and trajectory.dcd, for any viewer, and run.chk, from which another script can go on.
"""

import os
import sys

import openmm.app
from openmm.app import DCDReporter, PDBFile, StateDataReporter

from openmm_starmd import StarMDSimulation

FRAMES = int(os.environ.get("FRAMES", "100"))
villin = os.path.join(os.path.dirname(openmm.app.__file__), "data", "test.pdb")

pdb = PDBFile(sys.argv[1] if len(sys.argv) > 1 else villin)
simulation = StarMDSimulation(pdb.topology, pdb.positions, seed=1)

with open("topology.pdb", "w") as file:
    PDBFile.writeFile(simulation.topology, simulation.context.getState(positions=True).getPositions(), file)
simulation.reporters.append(DCDReporter("trajectory.dcd", 1))
simulation.reporters.append(
    StateDataReporter(
        sys.stdout, 10, step=True, time=True, speed=True, progress=True, remainingTime=True, totalSteps=FRAMES
    )
)
simulation.step(FRAMES)
simulation.saveCheckpoint("run.chk")
