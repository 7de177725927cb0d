"""Stock reporters of OpenMM and mdtraj, unmodified: written, read back, compared with an in-memory reporter."""

import io
import math

import mdtraj
import mdtraj.reporters
import numpy as np
import pytest
from openmm import app

from tests.fakes import (
    Memory,
    helix,
    make_simulation,
)

pytestmark = [
    pytest.mark.usefixtures("fake_rollout"),
    pytest.mark.filterwarnings("ignore::openmm_starmd.errors.StarMDWarning"),
]

TRAJECTORIES = {
    "openmm DCD": ("x.dcd", lambda f: app.DCDReporter(f, 2), 1e-5),
    "openmm XTC": ("x.xtc", lambda f: app.XTCReporter(f, 2), 6e-4),
    "openmm PDB": ("x.pdb", lambda f: app.PDBReporter(f, 2), 6e-5),
    "openmm PDBx": ("x.cif", lambda f: app.PDBxReporter(f, 2), 6e-5),
    "mdtraj HDF5": ("x.h5", lambda f: mdtraj.reporters.HDF5Reporter(f, 2), 1e-5),
    "mdtraj NetCDF": ("x.nc", lambda f: mdtraj.reporters.NetCDFReporter(f, 2), 1e-5),
    "mdtraj DCD": ("x.dcd", lambda f: mdtraj.reporters.DCDReporter(f, 2), 1e-5),
    "mdtraj XTC": ("x.xtc", lambda f: mdtraj.reporters.XTCReporter(f, 2), 6e-4),
}


def close(reporters):
    """Close mdtraj's reporters; OpenMM's close their files when the last reference goes."""
    while reporters:
        reporter = reporters.pop()
        if hasattr(reporter, "close"):
            reporter.close()


def read(path, simulation):
    """Trajectory as mdtraj reads it."""
    if path.suffix == ".cif":
        frames = app.PDBxFile(str(path))
        xyz = [frames.getPositions(asNumpy=True, frame=i)._value for i in range(frames.getNumFrames())]
        return mdtraj.Trajectory(np.array(xyz), mdtraj.Topology.from_openmm(frames.topology))
    if path.suffix in (".pdb", ".h5"):
        return mdtraj.load(str(path))
    return mdtraj.load(str(path), top=mdtraj.Topology.from_openmm(simulation.topology))


@pytest.mark.parametrize("box", [None, 5.0])
@pytest.mark.parametrize("atoms", ["ca", "backbone", "heavy"])
@pytest.mark.parametrize("kind", TRAJECTORIES)
def test_trajectory_reporters(tmp_path, kind, atoms, box):
    name, make, tolerance = TRAJECTORIES[kind]
    path = tmp_path / name
    simulation = make_simulation(helix(box=box), atoms)
    memory = Memory(2)
    simulation.reporters += [make(str(path)), memory]
    simulation.step(9)
    close(simulation.reporters)
    seen = read(path, simulation)
    assert seen.n_frames == 4
    assert np.abs(seen.xyz - memory.frames).max() < tolerance
    assert [a.name for a in seen.topology.atoms] == [a.name for a in simulation.topology.atoms()]
    assert [r.name for r in seen.topology.residues] == [r.name for r in simulation.topology.residues()]
    if path.suffix in (".xtc", ".h5", ".nc"):
        assert np.allclose(seen.time, memory.times)
    if box and path.suffix != ".cif":
        assert np.allclose(seen.unitcell_lengths, box, atol=1e-4)


@pytest.mark.parametrize("reporter, name", [(app.DCDReporter, "x.dcd"), (app.XTCReporter, "x.xtc")])
def test_append(tmp_path, reporter, name):
    """A trajectory continued by a resumed simulation is the unbroken one."""
    memory = Memory()
    unbroken = make_simulation(helix())
    unbroken.reporters.append(memory)
    unbroken.step(10)
    first = make_simulation(helix())
    first.reporters.append(reporter(str(tmp_path / name), 1))
    first.step(6)
    first.saveCheckpoint(tmp_path / "run.chk")
    close(first.reporters)
    second = make_simulation(helix())
    second.loadCheckpoint(tmp_path / "run.chk")
    second.reporters.append(reporter(str(tmp_path / name), 1, append=True))
    second.step(4)
    close(second.reporters)
    seen = read(tmp_path / name, second)
    assert seen.n_frames == 10
    assert np.abs(seen.xyz - memory.frames).max() < 6e-4
    if name.endswith("xtc"):
        assert np.allclose(seen.time, memory.times)


@pytest.mark.parametrize("box", [None, 5.0])
def test_state_data_reporter(box):
    """All columns; energies zero, temperature nan, time and progress as they should be."""
    simulation = make_simulation(helix(box=box))
    out = io.StringIO()
    columns = "step time potentialEnergy kineticEnergy totalEnergy temperature volume density"
    columns += " progress remainingTime speed elapsedTime"
    simulation.reporters.append(app.StateDataReporter(out, 3, totalSteps=12, **dict.fromkeys(columns.split(), True)))
    simulation.step(12)
    header, *rows = out.getvalue().splitlines()
    names = [name.strip('#"') for name in header.split(",")]
    assert len(names) == 12
    assert len(rows) == 4
    for number, row in enumerate(rows, start=1):
        values = dict(zip(names, row.split(","), strict=True))
        assert values["Step"] == str(3 * number)
        assert float(values["Time (ps)"]) == 30.0 * number
        assert values["Progress (%)"] == f"{25 * number}.0%"
        assert math.isnan(float(values["Temperature (K)"]))
        for column in ("Potential Energy", "Kinetic Energy", "Total Energy"):
            assert float(values[f"{column} (kJ/mole)"]) == 0
        if box:
            assert math.isclose(float(values["Box Volume (nm^3)"]), box**3, rel_tol=1e-9)
            assert float(values["Density (g/mL)"]) > 0
        if number > 1:
            assert float(values["Speed (ns/day)"]) > 0
            assert ":" in values["Time Remaining"]


def test_uneven_intervals():
    """Reporters of different intervals each see the right frames."""
    every = Memory(1)
    simulation = make_simulation(helix())
    others = [Memory(interval) for interval in (2, 3, 7, 20)]
    simulation.reporters += [every, *others]
    simulation.step(9)
    simulation.step(16)
    assert every.steps == list(range(1, 26))
    for memory in others:
        assert memory.steps == list(range(memory.interval, 26, memory.interval))
        assert np.array_equal(memory.frames, [every.frames[step - 1] for step in memory.steps])


def test_reporting_changes_nothing(tmp_path):
    """Reporting, saving and asking for energies leave the trajectory as it is."""
    quiet, busy = make_simulation(helix()), make_simulation(helix())
    quiet.step(8)
    busy.reporters += [
        app.StateDataReporter(io.StringIO(), 1, potentialEnergy=True, temperature=True),
        app.DCDReporter(str(tmp_path / "x.dcd"), 1),
        app.CheckpointReporter(str(tmp_path / "x.chk"), 2),
        app.CheckpointReporter(str(tmp_path / "x.xml"), 3, writeState=True),
    ]
    busy.step(8)
    a, b = (s.context.getState(positions=True).getPositions(asNumpy=True)._value for s in (quiet, busy))
    assert np.array_equal(a, b)
