"""Full atoms for a trajectory of STAR-MD frames, and a short minimisation of each.

    python examples/refine.py run/trajectory.dcd protein.pdb

The frames may hold CA, backbone or heavy atoms; protein.pdb is what the run was started from. Without arguments it
draws a few backbone frames of villin first. Where it is started it writes refined.xtc with all atoms, hydrogens
included, refined.pdb for viewers, and refined.csv: clashes left, energy before and after, how far the backbone moved.
"""

import os
import sys

import openmm.app
from openmm.app import DCDReporter, ForceField, PDBFile

from openmm_starmd import StarMDSimulation, backmap_trajectory

FRAMES = int(os.environ.get("FRAMES", "10"))
ITERATIONS = int(os.environ.get("ITERATIONS", "100"))

if len(sys.argv) > 2:
    trajectory, structure = sys.argv[1:3]
else:
    trajectory, structure = "drawn.dcd", os.path.join(os.path.dirname(openmm.app.__file__), "data", "test.pdb")
    pdb = PDBFile(structure)
    simulation = StarMDSimulation(pdb.topology, pdb.positions, atoms="backbone", seed=1)
    simulation.reporters.append(DCDReporter(trajectory, 1))
    simulation.step(FRAMES)
    # DCDReporter writes its last frame when it is closed
    simulation.reporters.clear()

report = backmap_trajectory(
    trajectory,
    "refined.xtc",
    structure,
    to="all",
    minimize=True,
    iterations=ITERATIONS,
    forcefield=ForceField("amber14-all.xml"),
    progress=lambda done: print(f"{done} frames", file=sys.stderr),
)
print(report.summary())
for frame in report.frames:
    print(
        f"frame {frame.frame}: {frame.energy_before:12.0f} -> {frame.energy_after:8.0f} kJ/mol, "
        f"backbone moved {frame.moved_A:.2f} Å, {frame.clashes} clashes left"
    )
