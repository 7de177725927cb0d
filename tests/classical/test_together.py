"""Many proteins in one Context: as alone, killed, gone on with, one of them failing. Tiny peptides and few steps."""

from __future__ import annotations

import gzip
import json
import re
import shutil

import mdtraj
import numpy as np
import openmm as mm
import pytest
from openmm import unit

from openmm_starmd.atoms.systems import MoleculeTerms, joined_system
from openmm_starmd.classical import company
from openmm_starmd.classical.recording import RunFiles, read_state
from openmm_starmd.classical.replicas import Protocol, make_context, make_replica, make_system
from openmm_starmd.classical.together import make_data_together
from openmm_starmd.data.folders import open_data
from openmm_starmd.files.reading import read_structure
from openmm_starmd.files.writing import lock
from tests.proteins import VILLIN

QUICK = Protocol(equilibration=0.04, minimization=20, interval=0.02)
CUT = Protocol(equilibration=0.04, minimization=20, interval=0.02, cutoff=3.0)


@pytest.fixture(scope="module")
def peptides(tmp_path_factory):
    """The last three and the last four residues of villin, and a tree where their models are prepared."""
    start = mdtraj.load(VILLIN)
    folder = tmp_path_factory.mktemp("input")
    paths = []
    for name, first in (("three", 32), ("four", 31)):
        atoms = [a.index for a in start.topology.atoms if first <= a.residue.index < 35 and a.element.symbol != "H"]
        paths.append(folder / f"{name}.pdb")
        start.atom_slice(atoms).save_pdb(str(paths[-1]))
    for path in paths:
        make_replica(path, folder / "prepared", 0, protocol=QUICK)
    return paths


@pytest.fixture
def tree(peptides, tmp_path):
    """A copy of the prepared tree."""
    return shutil.copytree(peptides[0].parent / "prepared", tmp_path / "tree")


def frames(tree, name, replica=1):
    folder = tree / name
    return mdtraj.load(str(folder / f"{name}_prod_R{replica}_fit.xtc"), top=str(folder / f"{name}.pdb"))


def run(peptides, tree, duration=0.2, **options):
    lines: list[str] = []
    options = {"protocol": QUICK, "platform": "CPU", "chunk": 2, "report": lines.append} | options
    return make_data_together(peptides, tree, duration, **options), lines


def edited_state(files, change):
    """Put `change(positions, velocities)` into the state of a run."""
    text = gzip.decompress(files.state.read_bytes()).decode()
    state = read_state(files)
    positions, velocities = change(state.positions.copy(), state.velocities.copy())
    for tag, array in (("Position", positions), ("Velocity", velocities)):
        rows = iter(f'<{tag} x="{x!r}" y="{y!r}" z="{z!r}"/>' for x, y, z in array.tolist())
        text = re.sub(rf"<{tag} [^>]*>", lambda match, rows=rows: next(rows), text)
    files.state.write_bytes(gzip.compress(text.encode()))


def test_forces_are_those_of_each_alone(peptides):
    """Copied terms and a grid change nothing; the cutoff is longer than these peptides, so it does not either."""
    models = [read_structure(peptides[0].parent / "prepared" / p.stem / f"{p.stem}.model.pdb") for p in peptides]

    def forces(system, positions):
        context = make_context(system, mm.VerletIntegrator(0.001), "Reference", 1)
        context.setPositions(positions)
        return context.getState(forces=True).getForces(asNumpy=True)._value

    positions = [np.array(model.positions.value_in_unit(unit.nanometer)) for model in models]
    alone = [forces(make_system(m.topology, QUICK), x) for m, x in zip(models, positions, strict=True)]
    joined = joined_system([MoleculeTerms(make_system(model.topology, CUT)) for model in models])
    assert not any(isinstance(force, mm.CMMotionRemover) for force in joined.getForces())
    both = forces(joined, np.concatenate([positions[0], positions[1] + 12.0]))
    assert np.sqrt((alone[0] ** 2).mean()) > 10
    np.testing.assert_allclose(both, np.concatenate(alone), atol=1e-3)
    near = forces(joined, np.concatenate([positions[0], positions[1] + np.array([1.5, 0, 0])]))
    assert np.abs(near - both).max() > 1, "within the cutoff they would feel each other"
    with pytest.raises(ValueError, match="need one cutoff"):
        joined_system([MoleculeTerms(make_system(model.topology, QUICK)) for model in models])


def test_a_force_that_has_no_place_is_refused(peptides):
    folder = peptides[0].parent / "prepared" / "three"
    system = make_system(read_structure(folder / "three.model.pdb").topology, CUT)
    system.addForce(mm.CustomExternalForce("x"))
    with pytest.raises(ValueError, match="CustomExternalForce"):
        MoleculeTerms(system)


def test_the_grid_keeps_its_promises():
    for radius in (0.5, 2.0, 6.0):
        spacing, most = company._spacing(radius, CUT), company.capacity([0.1, radius], CUT)
        assert spacing >= 2 * radius + 3
        side = round(most ** (1 / 3))
        assert side**3 == most
        assert (side - 1) / 2 * spacing + radius <= 50 < side / 2 * spacing + radius + 2
    assert company.capacity([2.0], CUT) == 729
    assert company.capacity([49.0], CUT) == 0


def test_layout_times_and_description(peptides, tree):
    failed, lines = run(peptides, tree, replicas=2)
    assert not failed
    assert lines[0].startswith("4 runs of ") and "on CPU" in lines[0]
    assert "three R1: 0.2 ps done" in lines and "ns/day in all" in lines[-1]
    for name in ("three", "four"):
        one, two = frames(tree, name, 1), frames(tree, name, 2)
        np.testing.assert_allclose(one.time, 0.02 * np.arange(1, 11), atol=1e-6)
        assert np.abs(one.xyz - two.xyz).max() > 1e-3
        assert not any(a.element.symbol == "H" for a in one.topology.atoms)
        # superposed on the start, and in motion
        start = mdtraj.load(str(tree / name / f"{name}.pdb"))
        moved = one.xyz - one[:].superpose(start, atom_indices=start.topology.select("name CA")).xyz
        assert np.abs(moved).max() < 5e-3 < np.abs(one.xyz[-1] - one.xyz[0]).max()
        description = json.loads((tree / name / f"{name}.json").read_text())
        assert description["together"] is True and description["protocol"]["cutoff"] == 3.0
        assert description["source"].endswith(f"{name}.pdb") and description["digest"]
    assert not list(tree.rglob(".partial*"))
    assert [len(p.replicas) for p in open_data([tree])] == [2, 2]


def test_without_equilibration(peptides, tree):
    run(peptides, tree, 0.1, protocol=Protocol(equilibration=0.0, interval=0.02))
    assert np.abs(np.diff(frames(tree, "three").xyz, axis=0)).max() > 1e-3


def test_a_kill_costs_little(peptides, tree):
    class Killed(Exception):
        pass

    def kill(label, time, positions, velocities):
        if label == "three R1" and time > 0.09:
            raise Killed

    with pytest.raises(Killed):
        run(peptides, tree, observe=kill)
    # five frames and their states; then as if killed between the trajectory and the state
    first = frames(tree, "four")
    path = tree / "four" / "four_prod_R1_fit.xtc"
    path.write_bytes(path.read_bytes() + path.read_bytes()[:100])
    assert len(first) == 5
    assert run(peptides, tree)[0] == {}
    whole = frames(tree, "four")
    np.testing.assert_array_equal(whole.xyz[:5], first.xyz)
    np.testing.assert_allclose(whole.time, 0.02 * np.arange(1, 11), atol=1e-6)
    jumps = np.linalg.norm(np.diff(whole.xyz, axis=0), axis=-1).max(1)
    assert jumps[4] < 3 * np.median(jumps)


def test_ctrl_c_between_frame_and_state(peptides, tree, monkeypatch):
    """A state that is behind its frames is never written."""
    keep, calls = company.Company.keep, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 6:
            # the fifth frame has been taken, and the first member's state is half new
            self.members[0].positions = self.positions[0]
            raise KeyboardInterrupt
        keep(self)

    kept = {}

    def observe(label, time, positions, velocities):
        kept[label, round(time, 2)] = positions, velocities

    with monkeypatch.context() as patch:
        patch.setattr(company.Company, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(peptides, tree, observe=observe)
    for name in ("three", "four"):
        state = read_state(RunFiles(tree / name, name, 1))
        assert state.time == pytest.approx(0.08)
        for found, expected in zip((state.positions, state.velocities), kept[f"{name} R1", 0.08], strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-6)
        assert len(frames(tree, name)) == 4
    assert run(peptides, tree)[0] == {}
    np.testing.assert_allclose(frames(tree, "four").time, 0.02 * np.arange(1, 11), atol=1e-6)


def test_noise_of_the_equilibration_is_not_repeated(peptides, tree, monkeypatch):
    """Killed when it was equilibrated and nothing more, a run goes on with other noise."""
    seeds = []
    make = company.make_integrator

    def noted(protocol, seed):
        seeds.append(seed)
        return make(protocol, seed)

    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    monkeypatch.setattr(company, "make_integrator", noted)
    with monkeypatch.context() as patch:
        patch.setattr(company.Recorder, "take", kill)
        with pytest.raises(Killed):
            run(peptides, tree)
    assert read_state(RunFiles(tree / "four", "four", 1)).time == 0
    assert run(peptides, tree)[0] == {}
    assert len(seeds) == len(set(seeds)) == 2


def test_one_that_explodes_does_not_harm_the_others(peptides, tree):
    run(peptides, tree, 0.1)
    before = frames(tree, "three")

    def squeezed(positions, velocities):
        positions[5] = positions[4] + 1e-6
        return positions, velocities

    edited_state(RunFiles(tree / "three", "three", 1), squeezed)
    failed, lines = run(peptides, tree, 0.2, replicas=2)
    assert list(failed) == ["three R1"] and "its frames up to 0.1 ps are kept" in failed["three R1"]
    assert any(line.startswith("three R1: failed: ") for line in lines)
    assert len(frames(tree, "four")) == len(frames(tree, "three", 2)) == len(frames(tree, "four", 2)) == 10
    np.testing.assert_array_equal(frames(tree, "three").xyz, before.xyz)
    four = frames(tree, "four")
    jumps = np.linalg.norm(np.diff(four.xyz, axis=0), axis=-1).max(1)
    assert jumps.max() < 5 * np.median(jumps)


def test_nan_is_found_out(peptides, tree):
    run(peptides, tree, 0.04)
    edited_state(RunFiles(tree / "four", "four", 1), lambda x, v: (x, v * np.nan))
    failed, _ = run(peptides, tree, 0.08)
    assert list(failed) == ["four R1"] and "NaN" in failed["four R1"]
    assert len(frames(tree, "three")) == 4 and len(frames(tree, "four")) == 2


def test_who_strays_is_put_back_whole(peptides, tree, monkeypatch):
    """A velocity common to all atoms moves the place, never the frames or the velocities."""
    monkeypatch.setattr(company, "_HOT", np.inf)
    run(peptides, tree, 0.04)
    files = RunFiles(tree / "three", "three", 1)
    edited_state(files, lambda x, v: (x, v + np.array([2.0, 0.0, 0.0])))
    seen = []
    run(peptides, tree, 0.8, observe=lambda label, t, x, v: seen.append((label, x.mean(0), v.mean(0))))
    speeds = np.array([v[0] for label, _, v in seen if label == "three R1"])
    places = np.array([x[0] for label, x, _ in seen if label == "three R1"])
    travelled = speeds.sum() * 0.02
    assert travelled > 0.6 > places.max() > 0.2, "it would have been off its place without"
    jumps = np.linalg.norm(np.diff(frames(tree, "three").xyz, axis=0), axis=-1).max(1)
    assert jumps.max() < 5 * np.median(jumps)


@pytest.mark.slow
def test_each_goes_on_alone_and_in_other_company(peptides, tree):
    run(peptides, tree, 0.1)
    with pytest.raises(ValueError, match=r"was begun with cutoff 3.0; asked for is cutoff None"):
        make_replica(peptides[0], tree, 0.2, protocol=QUICK)
    make_replica(peptides[0], tree, 0.16, protocol=CUT)
    assert len(frames(tree, "three")) == 8
    failed, lines = run(peptides, tree, 0.2, per_context=1)
    assert not failed and "2 runs in 2 batches of at most 1, one after another" in lines
    assert len(frames(tree, "three")) == len(frames(tree, "four")) == 10
    # of unequal length in one Context: the first that is done leaves
    run(peptides[:1], tree, 0.24)
    assert run(peptides, tree, 0.3)[0] == {}
    assert len(frames(tree, "three")) == len(frames(tree, "four")) == 15


@pytest.mark.slow
def test_the_beginning_in_fine_frames(peptides, tree):
    fine = Protocol(equilibration=0.04, minimization=20, interval=0.1, fine=0.2, fine_interval=0.02)
    run(peptides, tree, 0.1, protocol=fine)
    run(peptides, tree, 0.4, protocol=fine)
    for name in ("three", "four"):
        coarse, close = frames(tree, name), frames(tree / "fine", name)
        np.testing.assert_allclose(coarse.time, 0.1 * np.arange(1, 5), atol=1e-6)
        np.testing.assert_allclose(close.time, 0.02 * np.arange(1, 11), atol=1e-6)
        np.testing.assert_array_equal(close.xyz[[4, 9]], coarse.xyz[:2])
    proteins = open_data([tree, tree / "fine"])
    assert [[replica.interval for replica in protein.replicas] for protein in proteins] == [
        [pytest.approx(0.1), pytest.approx(0.02)]
    ] * 2
    with pytest.raises(ValueError, match="interval 0.1 ps is not a whole number of 0.03 ps fine intervals"):
        Protocol(timestep=0.01, interval=0.1, fine=0.2, fine_interval=0.03).check()


def test_fine_frames_alone(peptides, tree):
    fine = Protocol(equilibration=0.04, minimization=20, interval=0.04, fine=0.08, fine_interval=0.02)
    make_replica(peptides[0], tree, 0.08, protocol=fine)
    torn = tree / "fine" / "three" / ".partial-0-three.xtc"
    torn.touch()
    make_replica(peptides[0], tree, 0.16, protocol=fine)
    assert not torn.exists()
    np.testing.assert_allclose(frames(tree / "fine", "three").time, 0.02 * np.arange(1, 5), atol=1e-6)
    np.testing.assert_allclose(frames(tree, "three").time, 0.04 * np.arange(1, 5), atol=1e-6)


@pytest.mark.slow
def test_seconds_leave_whole_files(peptides, tree):
    failed, lines = run(peptides, tree, 1e6, seconds=2.0, chunk=None)
    assert not failed and re.search(r"three R1: [\d.]+ ps done of 1e\+06", "\n".join(lines))
    for name in ("three", "four"):
        state = read_state(RunFiles(tree / name, name, 1))
        assert state.time == pytest.approx(frames(tree, name).time[-1], abs=1e-3)
    was = len(frames(tree, "three"))
    run(peptides, tree, 1e6, seconds=2.0, chunk=None)
    assert len(frames(tree, "three")) > was


@pytest.mark.slow
def test_a_folder_in_use_and_a_broken_input(peptides, tree, tmp_path):
    broken = tmp_path / "broken.pdb"
    broken.write_text("".join(line for line in peptides[0].read_text().splitlines(True) if " CB " not in line))
    with lock(tree / "four", "making MD in"):
        failed, _ = run([*peptides, broken], tree, 0.04)
    assert sorted(failed) == ["broken", "four"]
    assert "another process is making MD in" in failed["four"] and "No template" in failed["broken"]
    assert len(frames(tree, "three")) == 2


def test_what_cannot_be_is_said_beforehand(peptides, tree):
    with pytest.raises(ValueError, match="platform is 'Quantum'; OpenMM has "):
        run(peptides, tree, platform="Quantum")
    with pytest.raises(ValueError, match="must be positive"):
        run(peptides, tree, seconds=0)
    with pytest.raises(ValueError, match="no such file"):
        run([tree / "none.pdb"], tree)
    assert run(peptides, tree, 0)[0] == {}, "prepares only"
    assert not list(tree.rglob("*.xtc"))


@pytest.mark.slow
def test_a_grid_without_room_blames_the_widest(peptides, tree, monkeypatch):
    """One grows until no grid of two fits within the bound: it is taken out, and the other goes on."""
    monkeypatch.setattr(company, "BOUND", 6.5)
    run(peptides, tree, 0.04)

    def stretched(positions, velocities):
        return positions, velocities + (positions - positions.mean(0)) * 40

    monkeypatch.setattr(company, "_HOT", np.inf)
    monkeypatch.setattr(company, "_TIGHT", 2.0)
    edited_state(RunFiles(tree / "three", "three", 1), stretched)
    failed, _ = run(peptides, tree, 0.2)
    assert list(failed) == ["three R1"] and "no room within 6.5 nm" in failed["three R1"]
    assert len(frames(tree, "four")) == 10


@pytest.mark.slow
def test_temperature_is_that_of_the_bath(peptides, tree):
    temperatures: dict[str, list[float]] = {}
    models = {p.stem: read_structure(tree / p.stem / f"{p.stem}.model.pdb") for p in peptides}
    systems = {name: make_system(model.topology, QUICK) for name, model in models.items()}

    def observe(label, time, positions, velocities):
        system = systems[label.split()[0]]
        masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
        freedom = 3 * len(masses) - system.getNumConstraints()
        kinetic = (masses[:, None] * velocities**2).sum()
        temperatures.setdefault(label, []).append(kinetic / freedom / 0.00831446)

    run(peptides, tree, 24.0, protocol=Protocol(interval=0.4, equilibration=2.0), observe=observe, chunk=None)
    for values in temperatures.values():
        blocks = [np.mean(block) for block in np.array_split(values, 6)]
        assert abs(np.mean(blocks) - 300) < 4 * np.std(blocks, ddof=1) / np.sqrt(6) + 3
