"""An OpenMM script made a hybrid by one added line.

    python examples/from_simulation.py protein.pdb

Up to the line marked below this is any OpenMM script: here a complete protein (villin, from the openmm package, if none
is given) in implicit solvent, minimised. Then the learned simulation takes over, and its classical stretches run in the
very System that the script made: force field, solvent, integrator, platform. Where it is started it writes
trajectory.dcd and topology.pdb.
"""

import os
import sys

import openmm.app
from openmm import LangevinMiddleIntegrator
from openmm.app import DCDReporter, ForceField, HBonds, Modeller, PDBFile, Simulation, StateDataReporter
from openmm.unit import kelvin, picosecond, picoseconds

from openmm_starmd import StarMDSimulation

FRAMES = int(os.environ.get("FRAMES", "20"))
STRIDES = int(os.environ.get("STRIDES", "2"))

villin = os.path.join(os.path.dirname(openmm.app.__file__), "data", "test.pdb")

pdb = PDBFile(sys.argv[1] if len(sys.argv) > 1 else villin)
modeller = Modeller(pdb.topology, pdb.positions)
modeller.deleteWater()
modeller.delete([residue for residue in modeller.topology.residues() if residue.name == "Cl"])
modeller.topology.setPeriodicBoxVectors(None)
forcefield = ForceField("amber14-all.xml", "implicit/obc2.xml")
system = forcefield.createSystem(modeller.topology, constraints=HBonds)
integrator = LangevinMiddleIntegrator(300 * kelvin, 1 / picosecond, 0.002 * picoseconds)
simulation = Simulation(modeller.topology, system, integrator)
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=20)

simulation = StarMDSimulation.fromSimulation(simulation, stride=1 * picosecond, seed=1)  # the added line

with open("topology.pdb", "w") as file:
    PDBFile.writeFile(simulation.topology, simulation.context.getState(positions=True).getPositions(), file)
simulation.reporters.append(DCDReporter("trajectory.dcd", 1))
simulation.reporters.append(StateDataReporter(sys.stdout, 1, step=True, time=True))
simulation.step(FRAMES)
with simulation.classical():  # in the System made above
    simulation.step(STRIDES)
simulation.step(FRAMES)
