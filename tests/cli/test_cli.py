"""The command openmm-starmd, end to end: what it writes, how it resumes, how it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from openmm_starmd import running
from openmm_starmd.cli import app
from openmm_starmd.files.cutting import truncate
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import BUNDLED, DEFAULT_WEIGHTS, save_weights
from openmm_starmd.running import RunSettings
from tests.proteins import VILLIN

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Weights of a narrow untrained network: frames are wild, but as reproducible as any."""
    torch.manual_seed(0)
    config = ModelConfig(
        c_s=32, c_z=16, blocks=1, conditioner_layers=1, conditioner_s=32, conditioner_z=16, attention_hidden=32,
        attention_heads=2, steps=3, max_context=4, max_length=40, name="narrow",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder, Network(config), config)
    return str(folder)


@pytest.fixture(scope="module")
def peptide(tmp_path_factory) -> str:
    """Twelve residues of villin as a PDB file."""
    start = mdtraj.load(VILLIN)
    path = tmp_path_factory.mktemp("input") / "peptide.pdb"
    start.atom_slice([a.index for a in start.topology.atoms if a.residue.index < 12]).save_pdb(str(path))
    return str(path)


def coordinates(folder: Path, format: str = "dcd") -> np.ndarray:
    return mdtraj.load(str(folder / f"trajectory.{format}"), top=str(folder / "topology.pdb")).xyz


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_run_writes_what_it_promises(peptide, weights, tmp_path):
    output = tmp_path / "out"
    result = invoke("run", peptide, "--frames", 6, "--weights", weights, "--stride", 5, "--output", output)
    assert result.exit_code == 0, result.output
    names = {p.name for p in output.iterdir()}
    assert names == {
        "checkpoint.chk", "config.json", "log.csv", "picture.png", "summary.json", "topology.pdb", "trajectory.dcd"
    }  # fmt: skip
    summary = json.loads((output / "summary.json").read_text())
    assert summary["frames"] == 6 and summary["residues"] == 12 and summary["length_ps"] == 30
    assert coordinates(output).shape == (6, 48, 3)
    rows = (output / "log.csv").read_text().splitlines()
    assert len(rows) == 7 and rows[-1].startswith("6,30.0")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["dcd", "xtc"])
@pytest.mark.parametrize("atoms", ["ca", "backbone"])
def test_torn_run_resumes_to_the_same_frames(peptide, weights, tmp_path, format, atoms):
    settings = RunSettings(weights=weights, seed=5, format=format, atoms=atoms)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    running.run(peptide, 13, whole, settings, progress=False)
    # frames 9 to 11 are on disk, but the checkpoint that counts them is not, and the last frame is torn
    running.run(peptide, 8, torn, settings, progress=False)
    checkpoint = (torn / "checkpoint.chk").read_bytes()
    running.run(peptide, 11, torn, settings, resume=True, progress=False)
    (torn / "checkpoint.chk").write_bytes(checkpoint)
    with open(torn / f"trajectory.{format}", "ab") as file:
        file.write((torn / f"trajectory.{format}").read_bytes()[-100:-40])
    running.run(peptide, 13, torn, RunSettings(), resume=True, progress=False)
    np.testing.assert_array_equal(coordinates(whole, format), coordinates(torn, format))
    steps = [row.split(",")[0] for row in (torn / "log.csv").read_text().splitlines()[1:]]
    assert steps == [str(k) for k in range(1, 14)]


def start(peptide: str, weights: str, output: Path, frames: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "openmm_starmd.cli", "run", peptide, "--frames", str(frames)]
    command += ["--weights", weights, "--output", str(output), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def wait_for_frames(process: subprocess.Popen, output: Path, frames: int) -> None:
    deadline = time.monotonic() + 600
    log = output / "log.csv"
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and len(log.read_text().splitlines()) > frames:
            return
        time.sleep(0.02)
    pytest.fail(f"no {frames} frames: {process.stderr.read().decode()}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_run_goes_on(peptide, weights, tmp_path, number):
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    process = start(peptide, weights, torn, 100_000)
    wait_for_frames(process, torn, 13)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=600)
    if number != signal.SIGKILL:
        assert process.returncode == 130 and b"--resume goes on" in errors
    done = len((torn / "log.csv").read_text().splitlines())
    running.run(peptide, done + 3, torn, resume=True, progress=False)
    running.run(peptide, done + 3, whole, RunSettings(weights=weights), progress=False)
    np.testing.assert_array_equal(coordinates(whole), coordinates(torn))


def test_resume_refuses_what_differs(peptide, weights, tmp_path):
    output = tmp_path / "out"
    assert invoke("run", peptide, "--frames", 2, "--weights", weights, "--output", output).exit_code == 0
    again = invoke("run", peptide, "--frames", 4, "--weights", weights, "--output", output)
    assert again.exit_code == 2 and "--resume" in again.output
    changed = invoke("run", peptide, "--frames", 4, "--seed", 8, "--atoms", "ca", "--output", output, "--resume")
    assert changed.exit_code == 2 and "seed is 0, not 8" in changed.output and "atoms is backbone" in changed.output
    other = invoke("run", VILLIN, "--frames", 4, "--output", output, "--resume")
    assert other.exit_code == 2 and "other contents" in other.output
    assert coordinates(output).shape[0] == 2
    # asking for no more than there is leaves the frames alone
    assert invoke("run", peptide, "--frames", 1, "--output", output, "--resume").exit_code == 0
    assert coordinates(output).shape[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-file.pdb"], "no file"),
        (["PEPTIDE", "--stride", 1e6], "stride"),
        (["PEPTIDE", "--weights", "nonsense"], "no weights 'nonsense'"),
        (["EMPTY"], "error: "),
        (["RUBBISH.cif"], "cannot be read as mmCIF"),
    ],
)
def test_errors_are_one_line(peptide, weights, tmp_path, arguments, words):
    (tmp_path / "EMPTY").write_text("")
    (tmp_path / "RUBBISH.cif").write_text("rubbish\n")
    inputs = {"PEPTIDE": peptide, "EMPTY": tmp_path / "EMPTY", "RUBBISH.cif": tmp_path / "RUBBISH.cif"}
    arguments = [inputs.get(a, a) for a in arguments]
    if "--weights" not in arguments:
        arguments += ["--weights", weights]
    result = invoke("run", *arguments, "--frames", 1, "--output", tmp_path / "out")
    assert result.exit_code == 2 and words in result.output
    assert sum(line.startswith("error: ") for line in result.output.splitlines()) == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize("atoms", [5, 30])
@pytest.mark.parametrize("format", ["dcd", "xtc"])
def test_truncation_keeps_bytes(tmp_path, format, atoms):
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(atoms):
        topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue("ALA", chain))
    xyz = np.random.default_rng(0).normal(size=(7, atoms, 3)).astype(np.float32)
    path = tmp_path / f"t.{format}"
    mdtraj.Trajectory(xyz, topology).save(str(path))
    before, whole = mdtraj.load(str(path), top=topology).xyz, path.read_bytes()
    truncate(path, 7)
    # the counters in a DCD header are OpenMM's, which differ from mdtraj's by one
    assert path.read_bytes()[100:] == whole[100:]
    truncate(path, 4)
    np.testing.assert_array_equal(mdtraj.load(str(path), top=topology).xyz, before[:4])
    with pytest.raises(ValueError, match=r"4 whole frames .* 5"):
        truncate(path, 5)


def test_plot(peptide, weights, tmp_path):
    output = tmp_path / "out"
    running.run(peptide, 4, output, RunSettings(weights=weights), progress=False)
    trajectory, topology = output / "trajectory.dcd", output / "topology.pdb"
    arguments = ["plot", trajectory, "--topology", topology, "--reference", trajectory, "--output", tmp_path / "p.png"]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert invoke("plot", trajectory, "--topology", "none.pdb").exit_code == 2


@pytest.mark.slow
@pytest.mark.skipif(not (BUNDLED / DEFAULT_WEIGHTS / "config.json").exists(), reason="no bundled weights yet")
def test_villin_moves_and_stays_whole(tmp_path):
    result = invoke("run", VILLIN, "--frames", 10, "--seed", 1, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["valid_fraction"] >= 0.9
    assert 0.02 < summary["rmsd_to_start_nm"]["mean"] < 0.5


def test_files_of_others_are_not_overwritten(peptide, weights, tmp_path):
    (tmp_path / "trajectory.dcd").write_text("mine")
    result = invoke("run", peptide, "--frames", 1, "--weights", weights, "--output", tmp_path)
    assert result.exit_code == 2 and "trajectory.dcd" in result.output
    assert (tmp_path / "trajectory.dcd").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_folder_is_drawn_into_by_one_process(peptide, weights, tmp_path):
    process = start(peptide, weights, tmp_path / "out", 100_000)
    try:
        wait_for_frames(process, tmp_path / "out", 3)
        result = invoke("run", peptide, "--frames", 5, "--weights", weights, "--output", tmp_path / "out", "--resume")
        assert result.exit_code == 2 and "another process" in result.output
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("device", ["cuda:7", "nonsense"])
def test_devices_that_are_not_there_are_refused(peptide, weights, tmp_path, device):
    result = invoke("run", peptide, "--frames", 1, "--weights", weights, "--device", device, "--output", tmp_path / "o")
    assert result.exit_code == 2 and "device" in result.output


def test_plot_refuses_what_it_cannot_read(peptide, weights, tmp_path):
    assert invoke("run", peptide, "--frames", 2, "--weights", weights, "--output", tmp_path / "o").exit_code == 0
    text = tmp_path / "text.pdb"
    text.write_text("not a structure")
    trajectory, topology = tmp_path / "o" / "trajectory.dcd", tmp_path / "o" / "topology.pdb"
    for result, words in (
        (invoke("plot", trajectory, "--topology", text, "--output", tmp_path / "p.png"), "cannot be read"),
        (invoke("plot", text, "--topology", topology, "--output", tmp_path / "p.png"), "cannot be read"),
        (invoke("plot", trajectory, "--topology", peptide, "--output", tmp_path / "p.png"), "atoms"),
    ):
        assert result.exit_code == 2 and words in result.output
