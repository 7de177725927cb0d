"""The all-atom model of classical segments: settings, Systems, displaced water, and an existing simulation's."""

import warnings

import numpy as np
import openmm as mm
import pytest
from openmm import app, unit

from openmm_starmd import StarMDSimulation
from openmm_starmd.atoms.allatom import AllAtomModel
from openmm_starmd.atoms.relaxing import relieve_overlaps
from openmm_starmd.atoms.systems import implicit_system
from openmm_starmd.classical.model import ClassicalModel
from openmm_starmd.classical.settings import ClassicalSettings, inner_steps
from openmm_starmd.classical.solvent import OVERLAP, displace_solvent, movable_molecules
from openmm_starmd.errors import StarMDWarning
from openmm_starmd.geometry.superposition import aligned
from openmm_starmd.protein.protein import Protein
from tests.fakes import (
    Memory,
    fake_weights,
    helix,
    make_simulation,
    positions_of,
)
from tests.proteins import VILLIN

AMBER = app.ForceField("amber14-all.xml")
WATER = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
REFERENCE = ClassicalSettings(forcefield=AMBER, platform="Reference")


def poly_alanine(residues=4):
    return Protein.from_openmm(*helix(residues))


def villin():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pdb = app.PDBFile(VILLIN)
        pdb.topology.setPeriodicBoxVectors(None)
        return Protein.from_openmm(pdb.topology, pdb.positions)


def solvated_helix():
    """Four alanines in 1.9 nm of water: topology, positions [atoms, 3] in nm."""
    model = AllAtomModel.build(poly_alanine(), AMBER)
    modeller = app.Modeller(model.topology, model.positions * unit.nanometer)
    modeller.addSolvent(WATER, boxSize=mm.Vec3(1.9, 1.9, 1.9) * unit.nanometer)
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": 0}, "timestep is 0"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"friction": float("nan")}, "friction"),
        ({"integrator": 3}, "not an openmm.Integrator"),
        ({"solvent": "explicit", "pressure": -1}, "pressure"),
    ],
)
def test_settings_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        ClassicalSettings(**options)


def test_settings_strip_units_and_take_after_an_integrator():
    made = ClassicalSettings(timestep=2 * unit.femtosecond, pressure=1 * unit.atmosphere, solvent="explicit")
    assert (made.timestep, made.pressure) == (pytest.approx(0.002), pytest.approx(1.01325))
    assert made.forcefield == ("amber14-all.xml", "amber14/tip3p.xml")
    integrator = mm.LangevinMiddleIntegrator(310, 2, 0.001)
    made = ClassicalSettings(integrator=integrator)
    assert (made.temperature, made.timestep) == (310, 0.001)
    assert made.make_integrator() is not integrator
    assert ClassicalSettings(integrator=integrator).key == made.key != ClassicalSettings().key
    for options, message in (
        ({"platform": "Abacus"}, "OpenMM has"),
        ({"platform": "Reference", "precision": "mixed"}, "no property Precision"),
        ({"platform": "CPU", "properties": {"Thread": 1}}, "no property Thread; it has Threads"),
    ):
        with pytest.raises(ValueError, match=message):
            ClassicalSettings(**options).platform_arguments()
    with pytest.raises(ValueError, match="amber99.xml"):
        ClassicalSettings(forcefield="amber99.xml").load_forcefield()


def test_inner_steps():
    assert inner_steps(10, 0.004) == 2500 and inner_steps(0.3, 0.1) == 3
    with pytest.raises(ValueError, match="timestep=0.00277778 fits"):
        inner_steps(10.0 * 0.0025, 0.003)


def test_native_obc2_is_the_force_fields_own():
    """The same energy as amber14 with implicit/obc2.xml, whose surface term alone differs by a constant factor of 1."""
    model = AllAtomModel.build(poly_alanine(), AMBER)
    energies = []
    for system in (
        implicit_system(model.topology, AMBER, None, "obc2"),
        implicit_system(model.topology, app.ForceField("amber14-all.xml", "implicit/obc2.xml"), None, None),
    ):
        context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
        context.setPositions(model.positions)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[0] == pytest.approx(energies[1], abs=0.05)
    with pytest.raises(ValueError, match="solvent=None"):
        implicit_system(model.topology, app.ForceField("amber14-all.xml", "implicit/gbn2.xml"), None, "obc2")


@pytest.mark.slow
def test_villin_is_entered():
    """Energy falls, the backbone hardly moves, temperature is set, and chance is the seed's."""
    protein = villin()
    model = ClassicalModel(protein, REFERENCE)
    entry = model.enter(protein.backbone, minimize=8, equilibrate=0, seed=5)
    assert entry.energy_minimized < entry.energy_placed - 100
    assert 1e-4 < entry.moved < 0.02
    assert model.energy() == pytest.approx(entry.energy_minimized, abs=1)
    assert np.array_equal(model.backbone(), entry.backbone)
    rotation, shift = aligned(entry.backbone.reshape(-1, 3), protein.backbone.reshape(-1, 3))
    apart = entry.backbone.reshape(-1, 3) @ rotation.T + shift - protein.backbone.reshape(-1, 3)
    assert np.sqrt((apart**2).sum(-1).mean()) == pytest.approx(entry.moved, rel=1e-6)
    assert set(entry.seconds) == {"place", "minimize", "equilibrate"} and "backbone" not in repr(entry)
    simulation = model.simulation
    system = simulation.system
    freedom = 3 * system.getNumParticles() - system.getNumConstraints() - 3
    kinetic = simulation.context.getState(energy=True).getKineticEnergy()._value
    assert 2 * kinetic / freedom / 0.0083145 == pytest.approx(300, rel=0.1)
    again = model.enter(protein.backbone, protein.torsions, minimize=0, equilibrate=0, seed=5)
    assert again.energy_placed == pytest.approx(entry.energy_placed, abs=1e-3)
    assert again.moved < 0.004, "constraints alone"
    assert model.torsions().shape == (protein.length, 7)

    # overlaps of side chains turned into one another are relieved without the backbone
    turned = protein.torsions.copy()
    turned[:, 3:] += 1.0
    model.enter(protein.backbone, turned, minimize=0, equilibrate=0)
    clashing, before = model.energy(), model.positions()
    relieve_overlaps(simulation.context, model._side_chains)
    moved = np.linalg.norm(model.positions() - before, axis=-1)
    assert clashing > 1e5 and model.energy() < 0.02 * clashing
    assert moved[model.backbone_atoms].max() < 0.005 < moved.max()


def test_a_frame_that_the_force_field_refuses_is_named():
    protein = poly_alanine()
    model = ClassicalModel(protein, REFERENCE)
    crossed = protein.backbone.copy()
    crossed[3] = crossed[1]
    with pytest.raises(RuntimeError, match=r"ALA 2 \w+ and chain A residue ALA 4 \w+, 0.00 Å apart"):
        model.enter(crossed, minimize=5)
    model.enter(protein.backbone, minimize=5, equilibrate=0)
    assert model.energy() < 1000


@pytest.mark.slow
def test_integrators_and_force_fields_of_the_users_choice():
    protein = poly_alanine()
    for integrator in (mm.VerletIntegrator(0.002), mm.NoseHooverIntegrator(300, 1, 0.002)):
        settings = ClassicalSettings(forcefield=AMBER, integrator=integrator, platform="Reference", solvent=None)
        model = ClassicalModel(protein, settings)
        model.enter(protein.backbone, minimize=5, equilibrate=0.02)
        assert type(model.simulation.integrator) is type(integrator) and model.simulation.integrator is not integrator
        assert np.isfinite(model.positions()).all()
    for forcefield in ("charmm36.xml", ("amber99sbildn.xml",)):
        model = ClassicalModel(protein, ClassicalSettings(forcefield=forcefield, solvent=None, platform="Reference"))
        model.enter(protein.backbone, minimize=5, equilibrate=0)
    with pytest.raises(ValueError, match="ALA"):
        ClassicalModel(protein, ClassicalSettings(forcefield="amber14/tip3p.xml", platform="Reference"))


@pytest.mark.parametrize("tilt", [0.0, 0.6])
def test_overlapping_water_is_displaced(tilt):
    """Overlapping waters move as rigid bodies to where nothing is; the others stay to the bit."""
    topology, positions = solvated_helix()
    protein = Protein.from_openmm(*helix(4))
    model = AllAtomModel.from_topology(protein, topology, positions)
    vectors = np.array([[1.9, 0, 0], [tilt, 1.9, 0], [0, 0, 1.9]])
    molecules = movable_molecules(topology, model.others)
    assert len(molecules) == (len(positions) - 53) // 3 or len(molecules) > 100
    assert all(len(molecule) == 3 for molecule in molecules)
    solute = model.heavy
    shifted = positions.copy()
    inside = np.setdiff1d(np.arange(len(positions)), model.others)
    shifted[inside] += [0.6, 0.0, 0.3]
    apart, count = displace_solvent(shifted, solute, molecules, vectors)
    moved = [molecule for molecule in molecules if not np.array_equal(apart[molecule], shifted[molecule])]
    assert count == len(moved) > 3
    assert np.array_equal(apart[inside], shifted[inside])
    heads = np.array([molecule[0] for molecule in molecules])
    inverse = np.linalg.inv(vectors)

    def nearest(points, others):
        steps = points[:, None] - others[None]
        shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3) @ vectors
        wrapped = steps - np.floor(steps @ inverse + 0.5) @ vectors
        return np.linalg.norm(wrapped[:, :, None] + shifts, axis=-1).min(-1)

    assert nearest(apart[heads], apart[solute]).min() >= OVERLAP
    for molecule in moved:
        assert np.allclose(apart[molecule] - apart[molecule[0]], shifted[molecule] - shifted[molecule[0]])
    crowded = nearest(apart[[molecule[0] for molecule in moved]], apart[heads])
    assert np.sort(crowded, 1)[:, 1].min() > 0.2
    again, none = displace_solvent(apart, solute, molecules, vectors)
    assert none == 0 and again is apart


@pytest.mark.slow
@pytest.mark.usefixtures("fake_rollout")
def test_explicit_solvent():
    """Solvated once, entered twice, pressed on by a barostat; frames stay those of the protein."""
    weights = fake_weights(stride_min=0.01, stride_default=1.0)
    simulation = make_simulation(helix(4), "backbone", weights=weights, stride=0.2)
    options = {"solvent": "explicit", "forcefield": WATER, "padding": 0.8, "pressure": 1.0, "relaxation": 0.1}
    with pytest.raises(ValueError, match=r"padding=0\.\d+ or more"):
        simulation.classical_model(**options | {"padding": 0.2})
    options |= {"platform": "CPU", "properties": {"Threads": "1"}}
    for _ in range(2):
        simulation.step(1)
        before = positions_of(simulation)
        with simulation.classical(minimize=10, equilibrate=0.02, **options) as md:
            assert any(isinstance(force, mm.MonteCarloBarostat) for force in md.system.getForces())
            assert md.topology.getNumAtoms() > 400
            simulation.step(1)
        moved = np.linalg.norm(positions_of(simulation) - before, axis=-1)
        assert 0.002 < moved.mean() < 0.15
    assert len(simulation._models) == 1
    assert simulation.topology.getNumAtoms() == 16
    verdict = simulation.validate(0.0, minimize=2, **options)
    # after two iterations the energy of the water is anything
    assert np.isfinite(verdict.energy_minimized) and np.isnan(verdict.energy_start)
    assert "energy" not in {finding.kind for finding in verdict.findings}


def users_simulation(extra=(), temperature=300.0, constraints=app.HBonds):
    topology, positions = solvated_helix()
    system = WATER.createSystem(
        topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, constraints=constraints
    )
    for force in extra:
        system.addForce(force)
    integrator = mm.LangevinMiddleIntegrator(temperature, 1, 0.002)
    platform = mm.Platform.getPlatformByName("CPU")
    simulation = app.Simulation(topology, system, integrator, platform, {"Threads": "1"})
    simulation.context.setPositions(positions)
    return simulation


@pytest.mark.slow
@pytest.mark.usefixtures("fake_rollout")
def test_from_simulation(recwarn):
    """Segments run in a copy of that very System; the simulation given is left alone."""
    theirs = users_simulation()
    mm.LocalEnergyMinimizer.minimize(theirs.context, 10, 20)
    before = positions_of(theirs)
    weights = fake_weights(stride_min=0.01, stride_default=1.0)
    simulation = StarMDSimulation.fromSimulation(theirs, weights=weights, seed=1, stride=0.1, atoms="backbone")
    assert not [w for w in recwarn.list if isinstance(w.message, StarMDWarning)]
    assert simulation.topology.getNumAtoms() == 16
    inner = Memory(interval=50)
    simulation.step(1)
    with simulation.classical(minimize=10, equilibrate=0) as md:
        md.reporters.append(inner)
        assert md.topology.getNumAtoms() == theirs.topology.getNumAtoms()
        assert mm.XmlSerializer.serialize(md.system) == mm.XmlSerializer.serialize(theirs.system)
        assert (md.integrator.getStepSize()._value, md.integrator.getFriction()._value) == (0.002, 1)
        assert md.context.getPlatform().getName() == "CPU"
        assert md.context.getState().getPeriodicBoxVolume() == theirs.context.getState().getPeriodicBoxVolume()
        simulation.step(1)
    assert len(inner.frames) == 1 and inner.frames[0].shape == before.shape
    simulation.step(1)
    assert simulation.currentStep == 3
    assert np.array_equal(positions_of(theirs), before) and theirs.currentStep == 0
    theirs.step(2)
    # other settings, another model
    assert simulation.classical_model(forcefield=AMBER, platform="Reference") is not simulation.classical_model()
    with pytest.raises(ValueError, match="timestep: segments run in the System"):
        simulation.classical(timestep=0.001)


@pytest.mark.usefixtures("fake_rollout")
def test_from_simulation_lists_what_frames_cannot_honour():
    restraint = mm.CustomExternalForce("k*periodicdistance(x, y, z, 0, 0, 0)^2")
    restraint.setName("my restraint")
    restraint.addGlobalParameter("k", 3.0)
    restraint.addParticle(0, [])
    bias = mm.CustomBondForce("0*r")
    theirs = users_simulation([restraint, bias, mm.MonteCarloBarostat(1, 300)], 310.0, app.AllBonds)
    theirs.context.setParameter("k", 0.5)
    with pytest.warns(StarMDWarning) as caught:
        simulation = StarMDSimulation.fromSimulation(theirs, weights=fake_weights(), seed=1)
    texts = [str(warning.message) for warning in caught if isinstance(warning.message, StarMDWarning)]
    assert len(texts) == 1
    for part in ("MonteCarloBarostat", "CustomExternalForce 'my restraint'", "CustomBondForce", "310 K", "constraints"):
        assert part in texts[0]
    assert {one.filename for one in caught if isinstance(one.message, StarMDWarning)} == {__file__}
    model = simulation.classical_model()
    model.enter(simulation.protein.backbone, minimize=0, equilibrate=0)
    assert model.simulation.context.getParameter("k") == 0.5
    assert model.settings.temperature == 310


@pytest.mark.usefixtures("fake_rollout")
def test_from_simulation_refuses():
    theirs = users_simulation()
    bare = app.Simulation(
        theirs.topology, theirs.system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    with pytest.raises(ValueError, match="setPositions"):
        StarMDSimulation.fromSimulation(bare, weights=fake_weights())
    varying = app.Simulation(
        theirs.topology,
        theirs.system,
        mm.VariableLangevinIntegrator(300, 1, 0.001),
        mm.Platform.getPlatformByName("Reference"),
    )
    varying.context.setPositions(positions_of(theirs))
    with pytest.raises(ValueError, match="time steps vary"):
        StarMDSimulation.fromSimulation(varying, weights=fake_weights())
    simulation = StarMDSimulation.fromSimulation(theirs, weights=fake_weights(), stride=1.001)
    with pytest.raises(ValueError, match="no whole number of time steps of 0.002 ps"):
        simulation.classical()


@pytest.mark.usefixtures("fake_rollout")
def test_chains_in_other_images_are_brought_together():
    """A barostat moves each molecule into the box by itself; a frame's chains stay side by side, hydrogens too."""
    protein = Protein.from_openmm(*helix(4, chains=2))
    model = AllAtomModel.build(protein, AMBER)
    topology, positions = model.topology, model.positions
    box = np.diag([8.0, 8.0, 8.0])
    topology.setPeriodicBoxVectors(box * unit.nanometer)
    system = AMBER.createSystem(topology, nonbondedMethod=app.CutoffPeriodic, nonbondedCutoff=1 * unit.nanometer)
    theirs = app.Simulation(topology, system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    theirs.context.setPositions(positions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simulation = StarMDSimulation.fromSimulation(theirs, weights=fake_weights(), seed=1)
    own = simulation.classical_model()
    second = np.array([atom.index for atom in topology.atoms() if atom.residue.chain.index == 1])
    shifted = positions.copy()
    shifted[second] -= box[0]
    own.simulation.context.setPositions(shifted)
    found = own.positions()
    assert np.allclose(found - found[0], positions - positions[0], atol=1e-9)
