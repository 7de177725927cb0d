"""Making MD data: layout, restart, several processes. A three-residue peptide and few steps keep it short."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import mdtraj
import numpy as np
import pytest
from typer.testing import CliRunner

from openmm_starmd.classical.many import make_data
from openmm_starmd.classical.recording import RunFiles, RunState, read_state, write_state
from openmm_starmd.classical.replicas import Protocol, make_replica
from openmm_starmd.cli.app import app as command
from openmm_starmd.files.writing import lock
from tests.proteins import VILLIN

QUICK = Protocol(equilibration=0.04, minimization=20, interval=0.02)


@pytest.fixture(scope="module")
def peptide(tmp_path_factory):
    """Three inner residues of villin without hydrogens, with a terminal oxygen so that the force field knows them."""
    start = mdtraj.load(VILLIN)
    atoms = [a.index for a in start.topology.atoms if 31 < a.residue.index < 35 and a.element.symbol != "H"]
    path = tmp_path_factory.mktemp("input") / "peptide.pdb"
    start.atom_slice(atoms).save_pdb(str(path))
    return path


@pytest.fixture(scope="module")
def prepared(peptide):
    """A tree with the peptide's model."""
    make_replica(peptide, peptide.parent / "prepared", 0, protocol=QUICK)
    return peptide.parent / "prepared"


@pytest.fixture
def tree(prepared, tmp_path):
    """A copy of it."""
    return shutil.copytree(prepared, tmp_path / "tree")


def frames(tree):
    folder = tree / "peptide"
    return mdtraj.load(str(folder / "peptide_prod_R1_fit.xtc"), top=str(folder / "peptide.pdb"))


def as_earlier_versions_left_it(tree):
    """No digest, no later settings, a plain state."""
    folder = tree / "peptide"
    described = json.loads((folder / "peptide.json").read_text())
    kept = ("temperature", "friction", "timestep", "hydrogen_mass", "interval", "equilibration", "minimization")
    described = {"source": "x.pdb", "protocol": {key: described["protocol"][key] for key in kept}}
    (folder / "peptide.json").write_text(json.dumps(described))
    packed = folder / "peptide_prod_R1.state.xml.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    return folder


@pytest.mark.slow
def test_replica_goes_on_where_it_was_killed(peptide, tmp_path):
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        make_replica(peptide, tmp_path, 0.2, protocol=QUICK, chunk=2, progress=kill)
    folder = tmp_path / "peptide"
    first = mdtraj.load(str(folder / "peptide_prod_R1_fit.xtc"), top=str(folder / "peptide.pdb"))
    path = make_replica(peptide, tmp_path, 0.2, protocol=QUICK, chunk=2)
    whole = mdtraj.load(str(path), top=str(folder / "peptide.pdb"))
    assert first.n_frames == 4 and whole.n_frames == 10
    np.testing.assert_allclose(whole.xyz[:4], first.xyz, atol=2e-3)
    np.testing.assert_allclose(whole.time, 0.02 * np.arange(1, 11), atol=1e-5)
    # positions after the restart continue the motion: no jump larger than those before it
    jumps = np.linalg.norm(np.diff(whole.xyz, axis=0), axis=-1).max(1)
    assert jumps[3] < 3 * np.median(jumps)
    assert not any(a.element.symbol == "H" for a in whole.topology.atoms)
    assert not [p for p in folder.iterdir() if p.name.startswith(".partial")]


@pytest.mark.slow
def test_a_resumed_replica_has_noise_of_its_own(peptide, tmp_path):
    """From one state, taken for that of another frame, the motion goes on otherwise."""
    make_replica(peptide, tmp_path / "4", 0.08, protocol=QUICK, platform="Reference")
    shutil.copytree(tmp_path / "4", tmp_path / "3")
    last = []
    for done in (4, 3):
        folder = tmp_path / str(done) / "peptide"
        state = folder / "peptide_prod_R1.state.xml.gz"
        text = gzip.decompress(state.read_bytes()).decode()
        # as earlier versions wrote it
        (folder / "peptide_prod_R1.state.xml").write_text(re.sub(r'time="[^"]+"', f'time="{0.02 * done}"', text))
        state.unlink()
        path = make_replica(peptide, tmp_path / str(done), 0.02 * (done + 5), protocol=QUICK, platform="Reference")
        last.append(mdtraj.load(str(path), top=str(folder / "peptide.pdb"))[-1])
    start = mdtraj.load(str(tmp_path / "4" / "peptide" / "peptide.pdb"))
    first, second = (frame.superpose(start).xyz[0] for frame in last)
    # the same state 0.02 ps before: without other noise the frames would be the same but for the rounding of the file
    assert np.abs(first - second).max() > 3e-3


def test_replicas_differ_and_share_one_model(peptide, tmp_path):
    for replica in (1, 2):
        make_replica(peptide, tmp_path, 0.1, replica=replica, protocol=QUICK)
    folder = tmp_path / "peptide"
    one, two = (
        mdtraj.load(str(folder / f"peptide_prod_R{r}_fit.xtc"), top=str(folder / "peptide.pdb")) for r in (1, 2)
    )
    assert np.abs(one.xyz - two.xyz).max() > 1e-3
    assert len(list(folder.glob("*.model.pdb"))) == 1


def test_only_new_frames_are_written(peptide, tree):
    make_replica(peptide, tree, 0.1, protocol=QUICK)
    path = tree / "peptide" / "peptide_prod_R1_fit.xtc"
    first = path.read_bytes()
    # a frame that no state knows of, torn
    path.write_bytes(first + first[:90])
    make_replica(peptide, tree, 0.2, protocol=QUICK)
    assert path.read_bytes().startswith(first) and len(frames(tree)) == 10
    with mdtraj.formats.XTCTrajectoryFile(str(path)) as file:
        _, times, steps, _ = file.read()
    np.testing.assert_allclose(times, 0.02 * np.arange(1, 11), atol=1e-6)
    np.testing.assert_array_equal(steps, 5 * np.arange(1, 11))


@pytest.mark.slow
def test_what_an_earlier_version_left_goes_on(peptide, tree, tmp_path):
    make_replica(peptide, tree, 0.1, protocol=QUICK)
    folder = as_earlier_versions_left_it(tree)
    (folder / "peptide.model.pdb.gz").write_bytes(gzip.compress((folder / "peptide.model.pdb").read_bytes()))
    (folder / "peptide.model.pdb").unlink()
    first = frames(tree)
    other = tmp_path / "other" / "peptide.pdb"
    other.parent.mkdir()
    loaded = mdtraj.load(str(peptide))
    loaded.atom_slice(loaded.topology.select("resid 1 to 2")).save_pdb(str(other))
    with pytest.raises(ValueError, match=r"holds MD of another structure of this name \(made from x.pdb\): rename"):
        make_replica(other, tree, 0.2, protocol=QUICK)
    make_replica(peptide, tree, 0.2, protocol=QUICK)
    np.testing.assert_array_equal(frames(tree).xyz[:5], first.xyz)
    assert len(frames(tree)) == 10
    described = json.loads((folder / "peptide.json").read_text())
    assert described["source"] == "x.pdb" and described["digest"]
    assert sorted(p.name for p in folder.glob("*state*")) == ["peptide_prod_R1.state.xml.gz"]
    # the older of two states is the one that was unpacked and then left behind
    (folder / "peptide_prod_R1.state.xml").write_text(re.sub('time="[^"]+"', 'time="0.1"', _state(folder)))
    assert read_state(RunFiles(folder, "peptide", 1)).time == pytest.approx(0.2)


def _state(folder):
    return gzip.decompress((folder / "peptide_prod_R1.state.xml.gz").read_bytes()).decode()


def test_states_are_small_and_exact_enough(tmp_path):
    files, rng = RunFiles(tmp_path, "x", 1), np.random.default_rng(1)
    state = RunState(12.5, rng.normal(size=(500, 3)), rng.normal(size=(500, 3)))
    write_state(files, state, 3125)
    back = read_state(files)
    assert back.time == 12.5
    np.testing.assert_allclose(back.positions, state.positions, atol=6e-8)
    np.testing.assert_allclose(back.velocities, state.velocities, atol=6e-7)
    assert files.state.stat().st_size < 30 * 500 * 2
    first = files.state.read_bytes()
    write_state(files, state, 3125)
    assert files.state.read_bytes() == first
    files.state.write_bytes(first[:100])
    with pytest.raises(ValueError, match="is no state that could be gone on from"):
        read_state(files)


def test_another_protocol_or_input_is_refused(peptide, tree, tmp_path):
    make_replica(peptide, tree, 0.1, protocol=QUICK)
    with pytest.raises(
        ValueError, match=r"was begun with interval 0.02, equilibration 0.04; asked for is interval 1.0"
    ):
        make_replica(peptide, tree, 0.2)
    moved = tmp_path / "moved" / "peptide.pdb"
    moved.parent.mkdir()
    mdtraj.Trajectory(mdtraj.load(str(peptide)).xyz * 1.01, mdtraj.load(str(peptide)).topology).save_pdb(str(moved))
    with pytest.raises(ValueError, match="holds MD of another structure of this name"):
        make_replica(moved, tree, 0.2, protocol=QUICK)
    # the same in another format is the same, and so is what the folder itself holds
    packed = tmp_path / "peptide.pdb.gz"
    packed.write_bytes(gzip.compress(peptide.read_bytes()))
    make_replica(packed, tree, 0.12, protocol=QUICK)
    make_replica(tree / "peptide" / "peptide.pdb", tree, 0.14, protocol=QUICK)
    assert len(frames(tree)) == 7
    (tree / "peptide" / "peptide_prod_R1.state.xml.gz").unlink()
    with pytest.raises(ValueError, match="has no state beside it to go on from"):
        make_replica(peptide, tree, 0.2, protocol=QUICK)


def test_what_is_only_prepared_takes_any_protocol(peptide, tree):
    slow = Protocol(equilibration=0.04, interval=0.04, cutoff=3.0)
    make_replica(peptide, tree, 0.08, protocol=slow)
    np.testing.assert_allclose(frames(tree).time, [0.04, 0.08], atol=1e-6)


def test_a_folder_in_use_is_left_alone(peptide, tree):
    with lock(tree / "peptide", "making MD in"):
        with pytest.raises(ValueError, match="another process is making MD in .*peptide: wait for it"):
            make_replica(peptide, tree, 0.1, protocol=QUICK)
        result = CliRunner().invoke(command, ["make-data", str(peptide), "--output", str(tree), "--duration", "1"])
    assert result.exit_code == 1 and "peptide: failed: ValueError: another process is making MD in" in result.output
    assert not list(tree.rglob("*.xtc"))


@pytest.mark.parametrize(
    "options, error",
    [
        (["--seconds", "3"], "--seconds goes with --together only"),
        (["--platform", "CUDA", "--per-context", "3"], "--platform, --per-context goes with --together only"),
        (["--interval", "0.01"], "interval 0.01 ps is not a whole number of 0.004 ps time steps"),
        (["--interval", "5", "--fine", "12"], "fine 12.0 ps is not a whole number of 5.0 ps intervals"),
    ],
)
def test_options_that_do_not_fit(peptide, tmp_path, options, error):
    result = CliRunner().invoke(command, ["make-data", str(peptide), "--output", str(tmp_path / "out"), *options])
    assert result.exit_code == 2 and error in " ".join(result.output.split())


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
@pytest.mark.parametrize("options", [["--workers", "2"], ["--together", "--platform", "CPU"]])
def test_a_kill_ends_the_workers_and_the_same_command_goes_on(peptide, tree, options):
    base = [sys.executable, "-m", "openmm_starmd.cli", "make-data", str(peptide), "--output", str(tree)]
    process = subprocess.Popen([*base, "--duration", "1e6", "--interval", "0.02", *options])
    try:
        path = tree / "peptide" / "peptide_prod_R1_fit.xtc"
        _wait(lambda: path.exists() and path.stat().st_size)
        workers = _descendants(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert bool(workers) == ("--workers" in options)
    _wait(lambda: not any(os.path.isdir(f"/proc/{worker}") for worker in workers))
    had = round(read_state(RunFiles(tree / "peptide", "peptide", 1)).time / 0.02)
    goal = (had + 5) * 0.02
    subprocess.run([*base, "--duration", f"{goal:.6g}", "--interval", "0.02", *options], check=True)
    np.testing.assert_allclose(frames(tree).time, 0.02 * np.arange(1, had + 6), rtol=1e-5)


def _wait(until, limit=240):
    began = time.monotonic()
    while not until():
        assert time.monotonic() - began < limit
        time.sleep(0.05)


def _descendants(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(entry), *_descendants(int(entry))]
    return found


def test_interval_must_be_whole_steps():
    with pytest.raises(ValueError, match="whole number"):
        _ = Protocol(interval=0.01).steps_per_frame


@pytest.mark.slow
def test_many_proteins_in_processes(peptide, tmp_path):
    broken = tmp_path / "broken.pdb"
    broken.write_text("".join(line for line in peptide.read_text().splitlines(True) if " CB " not in line))
    lines: list[str] = []
    failed = make_data([peptide, broken], tmp_path / "out", 1.0, replicas=2, workers=2, report=lines.append)
    assert list(failed) == ["broken"] and "No template" in failed["broken"]
    assert sorted(lines)[1:] == ["peptide R1: 1 ps done", "peptide R2: 1 ps done"]
    assert len(list((tmp_path / "out" / "peptide").glob("*_fit.xtc"))) == 2
    with pytest.raises(ValueError, match="several inputs are named peptide"):
        make_data([peptide, peptide], tmp_path / "out", 1.0)
    with pytest.raises(ValueError, match="no such file"):
        make_data([tmp_path / "none.pdb"], tmp_path / "out", 1.0)
