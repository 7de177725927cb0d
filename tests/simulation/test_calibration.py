"""The amplitude of a protein: found again in trajectories drawn with it, and carried by what is saved."""

from __future__ import annotations

import io
import json
import math

import mdtraj
import numpy as np
import pytest
import torch
from openmm import app, unit
from typer.testing import CliRunner

from openmm_starmd import calibration, running
from openmm_starmd.cli import app as command
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.model.calibration import PRIOR, find_amplitude, windows_of
from openmm_starmd.model.elastic import ElasticModel
from openmm_starmd.model.elastic_settings import ElasticSettings
from openmm_starmd.model.weights import save_weights
from openmm_starmd.running import RunSettings
from tests.fakes import positions_of, trajectory
from tests.proteins import random_rotation, villin_features
from tests.simulation.test_reference import REFERENCE, bent, make, peptide, weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def drawn(log: float, count: int, seed: int = 0, interval: float = 1.0) -> Rigids:
    """Frames [T, N] of villin whose modes are the Gaussian processes that the prior expects, times exp(log)."""
    features = villin_features(20, torch.float64)
    model, generator = ElasticModel.of(features, ElasticSettings()), torch.Generator().manual_seed(seed)

    def process(variance: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        kept = torch.exp(-rate * interval)
        values = [torch.randn(variance.shape, generator=generator, dtype=torch.float64)]
        for _ in range(count - 1):
            new = torch.randn(variance.shape, generator=generator, dtype=torch.float64)
            values.append(kept * values[-1] + (1 - kept**2).sqrt() * new)
        return torch.stack(values) * variance.sqrt()

    fast, slow, constant = (part[0, :-1] for part in (model.fast, model.slow, model.constant))
    along = process(fast, model.fast_rate[0, :-1]) + process(slow, model.slow_rate[0, :-1])
    along = math.exp(log) * (along + process(constant, torch.zeros_like(constant)))
    reference = features.reference
    shift = (along @ model.vectors[0].T).unflatten(-1, (20, 3))
    return Rigids(reference.rotations.expand(count, -1, -1, -1), reference.translations + shift)


def found(frames: Rigids, **options):
    return find_amplitude(frames, 1.0, villin_features(20), ElasticSettings(), max_context=7, **options)


@pytest.mark.parametrize("log", [-1.2, -0.9])
def test_amplitude_of_drawn_frames_is_found(log):
    """Pulled towards none at all as far as little is known; of displacements so small that they turn no axes."""
    long, short = found(drawn(log, 60)), found(drawn(log, 6))
    assert long.log == pytest.approx(log, abs=0.2)
    assert log < short.log < 0
    assert abs(short.log) < abs(long.log)
    assert long.error < short.error < PRIOR and long.error < 0.16 and short.error > 0.2
    assert (long.frames, short.frames) == (60, 6)


def test_what_networks_make_up_for_is_not_read_off_md():
    frames = drawn(-0.5, 12)
    wide = find_amplitude(frames, 1.0, villin_features(20), ElasticSettings(widening=0.3), max_context=7)
    assert wide == found(frames)


def test_frames_may_lie_anywhere():
    frames = drawn(-0.5, 12)
    turned = [frames.map(lambda x, i=i: x[i]) for i in range(12)]
    turned = [one.moved(random_rotation(i), torch.tensor([1.0 * i, 2.0, 3.0]).double()) for i, one in enumerate(turned)]
    moved = Rigids(*(torch.stack(part) for part in zip(*turned, strict=True)))
    assert found(moved).log == pytest.approx(found(frames).log, abs=1e-3)
    with pytest.raises(ValueError, match="at least three"):
        found(drawn(0.0, 2))


def test_windows_end_at_every_frame_and_look_back_as_far_as_there_are_frames():
    frames = Rigids(torch.eye(3).expand(9, 4, 3, 3), torch.randn(4, 3) + torch.arange(9.0)[:, None, None])
    windows = windows_of(frames, 2, 3)
    assert [window.translations.shape[:2] for window in windows] == [(2, 2), (2, 3), (3, 4)]
    # superposed on the first, which is as drawn
    assert torch.allclose(windows[2].translations, windows[2].translations[:, :1], atol=1e-5)
    assert torch.allclose(windows[2].translations[:, 0], frames.translations[[0, 1, 2]])


@pytest.fixture
def short(monkeypatch):
    """Calibrations of 50 time steps and five frames, since what is tested does not depend on it."""
    monkeypatch.setattr(calibration, "LEAST", 0.1)
    monkeypatch.setattr(calibration, "INTERVAL", 0.04)


def test_calibration_leaves_the_simulation_where_it_is(short):
    simulation, plain = make("backbone"), make("backbone")
    for one in (simulation, plain):
        one.setPositions(bent(peptide()[1]))
        one.step(2)
    before, history, counted = positions_of(simulation), simulation.integrator.history(), []
    calibrated = simulation.calibrate(0.2 * unit.picosecond, on_frame=lambda *n: counted.append(n), **REFERENCE)
    assert np.array_equal(positions_of(simulation), before) and simulation.integrator.history() == history
    assert simulation.currentStep == 2 and simulation.context.getTime() == 2 * simulation.stride
    assert counted == [(number, 5) for number in range(1, 6)]
    assert (calibrated.frames, calibrated.picoseconds) == (6, 0.2)
    assert calibrated.amplitude == simulation.amplitude == math.exp(calibrated.log_amplitude) != 1
    assert f"amplitude {calibrated.amplitude:.2f}" in repr(calibrated) and "0.2 ps" in repr(calibrated)
    # again and again the same, and another frame with it
    assert make("backbone").calibrate(0.2, **REFERENCE) == make("backbone").calibrate(0.2, **REFERENCE)
    frames, others = trajectory(simulation, 2), trajectory(plain, 2)
    assert np.abs(frames - others).max() > 1e-4
    # the history was kept: as many frames, the first of them those drawn before
    assert simulation.integrator.history().count == 4


@pytest.mark.parametrize("kind", ["Checkpoint", "State"])
def test_what_is_saved_brings_its_amplitude(kind):
    def saved(simulation):
        file = io.StringIO() if kind == "State" else io.BytesIO()
        getattr(simulation, f"save{kind}")(file)
        file.seek(0)
        return file

    simulation = make()
    simulation.step(1)
    before = saved(simulation)
    uncalibrated = trajectory(simulation, 3)
    getattr(simulation, f"load{kind}")(before)
    simulation.integrator.set_amplitude(0.3)
    at_once = saved(simulation)
    simulation.step(2)
    later = saved(simulation)
    expected = trajectory(simulation, 5)

    fresh = make(seed=None)
    getattr(fresh, f"load{kind}")(later)
    assert fresh.amplitude == math.exp(0.3)
    assert np.array_equal(trajectory(fresh, 5), expected)
    at_once.seek(0)
    getattr(fresh, f"load{kind}")(at_once)
    fresh.step(2)
    assert np.array_equal(trajectory(fresh, 5), expected)
    before.seek(0)
    getattr(fresh, f"load{kind}")(before)
    assert fresh.amplitude == 1
    assert np.array_equal(trajectory(fresh, 3), uncalibrated)


def test_refusals(short, fake_rollout):
    plain = make(prior="isotropic")
    with pytest.raises(ValueError, match="no elastic prior"):
        plain.calibrate(20)
    assert plain.amplitude == 1 and not plain.integrator.keeps_amplitude
    simulation = make("backbone")
    for wrong, words in ((0.05, "at least"), (math.inf, "at least"), ("long", "give a time")):
        with pytest.raises(ValueError, match=words):
            simulation.calibrate(wrong)
    with pytest.raises(ValueError, match="equilibrate"):
        simulation.calibrate(0.2, equilibrate=-1)
    with pytest.raises(ValueError, match="segment"), simulation.classical(**REFERENCE):
        simulation.calibrate(0.2, **REFERENCE)
    assert simulation.amplitude == 1


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A peptide as a PDB file, and folders of tiny weights by their prior."""
    folder = tmp_path_factory.mktemp("inputs")
    topology, positions = peptide()
    with (folder / "peptide.pdb").open("w") as file:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, file)
    for prior in ("elastic", "isotropic"):
        made = weights(prior)
        save_weights(folder / prior, made.network, made.config)
    return folder


def test_a_run_keeps_its_calibration(inputs, tmp_path, monkeypatch, short):
    """It is in config.json before the first frame; resumed runs have it from there or the checkpoint, without MD."""

    def run(folder, frames, **options):
        settings = RunSettings(weights=str(inputs / "elastic"), seed=1, calibrate=0.2)
        told = []
        running.run(
            inputs / "peptide.pdb", frames, tmp_path / folder, settings, device="cpu", progress=False,
            on_calibration=told.append, **options,
        )  # fmt: skip
        return told

    def coordinates(folder):
        folder = tmp_path / folder
        return mdtraj.load(str(folder / "trajectory.dcd"), top=str(folder / "topology.pdb")).xyz

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            run("run", 5)
    assert not (tmp_path / "run" / "config.json").exists()
    (told,) = run("run", 5)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["calibrate"] == 0.2 and config["calibration"]["log_amplitude"] == told.log_amplitude != 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["amplitude"] == told.amplitude
    unbroken = coordinates("run")

    # the run's own amplitude, whatever MD may give another time
    monkeypatch.setattr(calibration, "_record", killed)
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "config.json").write_text(json.dumps(config))
    assert run("early", 5, resume=True) == []
    assert np.array_equal(coordinates("early"), unbroken)
    assert run("run", 7, resume=True) == []
    assert np.array_equal(coordinates("run")[:5], unbroken)
    with pytest.raises(ValueError, match=r"calibrate is 0\.2, not 5"):
        settings = RunSettings(weights=str(inputs / "elastic"), calibrate=5.0)
        running.run(inputs / "peptide.pdb", 5, tmp_path / "run", settings, device="cpu", resume=True, progress=False)


def test_older_runs_have_none(inputs, tmp_path):
    """Their config.json does not know of it."""
    arguments = ["run", inputs / "peptide.pdb", "-o", tmp_path / "run", "--weights", inputs / "isotropic"]
    arguments = [*map(str, arguments), "--device", "cpu"]
    assert CliRunner().invoke(command, [*arguments, "--frames", "2"]).exit_code == 0
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("calibration") is None and config.pop("calibrate") is None
    path.write_text(json.dumps(config))
    outcome = CliRunner().invoke(command, [*arguments, "--frames", "3", "--resume"])
    assert outcome.exit_code == 0, outcome.output
    refused = CliRunner().invoke(
        command, [*arguments[:3], str(tmp_path / "other"), *arguments[4:], "--calibrate", "20"]
    )
    assert refused.exit_code == 2 and "no elastic prior" in refused.output
    assert not (tmp_path / "other").exists()


def test_the_command_tells_what_it_found(inputs, tmp_path, short):
    arguments = ["run", inputs / "peptide.pdb", "-o", tmp_path / "run", "--weights", inputs / "elastic"]
    arguments = [*map(str, arguments), "--device", "cpu", "--frames", "2", "--calibrate", "0.2"]
    outcome = CliRunner().invoke(command, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "Calibration: amplitude" in outcome.output and "0.2 ps of classical MD" in outcome.output


@pytest.mark.slow
def test_five_picoseconds_of_a_piece_of_villin():
    """Real MD on whatever platform there is: within what proteins do, and not surer than five picoseconds can be."""
    simulation = make("backbone", peptide(16))
    calibrated = simulation.calibrate(5 * unit.picosecond)
    assert calibrated.frames == 6 and calibrated.picoseconds == 5
    assert 0.4 < calibrated.amplitude < 2.5 and 0.15 < calibrated.error < 0.35
    simulation.step(1)
