"""benchmarks.denoising: linear predictors, reversion and spread of made-up frames with known answers; the script."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import denoising
from benchmarks.lib import next_frame
from benchmarks.lib.next_frame import (
    Axes,
    Steps,
    coefficients,
    gram,
    linear_rmse,
    places,
    pooled_bands,
    principal_axes,
    reversion_and_spread,
    teacher_forced,
    window_gram,
)
from benchmarks.lib.paths import DATA
from openmm_starmd.data.trajectories import load_protein
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.superposition import superpose
from openmm_starmd.model.config import preset
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import save_weights
from openmm_starmd.training.denoising import Windows, rmse
from tests.model.test_network import NARROW

CONFIG = replace(preset("mini"), **NARROW, stride_max=200.0)


@pytest.fixture(scope="module")
def trpcage():
    return load_protein(DATA / "1l2y_A", [2])


def without_rigid_motion(displacements: np.ndarray, about: np.ndarray) -> np.ndarray:
    """Displacements [..., N, 3] less what shifts or turns the frame `about` as a whole."""
    centred = about - about.mean(0)
    turns = [np.cross(axis, centred) for axis in np.eye(3)]
    shifts = [np.broadcast_to(axis, about.shape) for axis in np.eye(3)]
    basis, _ = np.linalg.qr(np.stack([*turns, *shifts]).reshape(6, -1).T)
    flat = displacements.reshape(*displacements.shape[:-2], -1)
    return (flat - flat @ basis @ basis.T).reshape(displacements.shape)


def test_coefficients_of_a_process_that_has_them(trpcage):
    """Frames that follow the linear rule exactly give its coefficients, and no error."""
    rng = np.random.default_rng(0)
    reference = trpcage.features.reference.translations.double().numpy()
    reference = reference - reference.mean(0)
    # so small that superposing changes nothing of the first order
    frames = [reference + without_rigid_motion(1e-5 * rng.standard_normal((5, *reference.shape)), reference)]
    for _ in range(5):
        last, mean = frames[-1], np.mean(frames, axis=0)
        frames.append(last + 0.4 * (mean - last) + 0.1 * (reference - last))
    chain = torch.from_numpy(np.stack(frames, 1))
    rigids = Rigids(torch.eye(3).expand(*chain.shape, 3), chain)
    windows = Windows(trpcage, 10.0, rigids, rigids, torch.zeros(chain.shape[:2]), rigids)
    exact = replace(trpcage.features, reference=Rigids(torch.eye(3).expand(20, 3, 3), torch.from_numpy(reference)))
    products = window_gram(replace(windows, protein=replace(trpcage, features=exact)))
    found = coefficients([products])
    assert found == pytest.approx([0.4, 0.1], abs=2e-3)
    still = linear_rmse(products, np.zeros(2))
    assert still == pytest.approx(rmse(windows.last_frame, windows.truth), rel=1e-6), "the last frame predicts c = 0"
    assert linear_rmse(products, found) < 0.01 * still
    # the best of two proteins together is worse on each than its own, and a regressor of zeros is not used
    other = gram(rng.standard_normal((4, 9, 3)), [rng.standard_normal((4, 9, 3)), rng.standard_normal((4, 9, 3))])
    common = coefficients([products / products[0, 0], other / other[0, 0]])
    assert linear_rmse(products, common) > linear_rmse(products, found)
    assert linear_rmse(other, common) > linear_rmse(other, coefficients([other]))
    products[1] = products[:, 1] = 0
    assert coefficients([products])[0] == 0 and coefficients([products])[1] > 0


def test_reversion_and_spread_are_what_they_were_made(trpcage):
    rng = np.random.default_rng(1)
    mean = trpcage.features.reference.translations.double().numpy()
    vectors = np.linalg.qr(without_rigid_motion(rng.standard_normal((20, *mean.shape)), mean).reshape(20, -1).T)[0]
    axes = Axes(mean, vectors, 100, 100.0)
    contexts, draws = 400, 6
    amplitude = 1e-4 * np.where(np.arange(20) < 3, 3.0, 1.0)

    def along(values):
        return (values @ vectors.T).reshape(*values.shape[:-1], *mean.shape)

    last = mean + along(amplitude * rng.standard_normal((contexts, 20)))
    last = superpose(last, mean)
    away = mean - last
    # MD goes back by 20 % and is 2 wide, the model by 50 % and 1 wide; twice as wide in the first three
    width = 1e-4 * np.where(np.arange(20) < 3, 2.0, 1.0)
    truth = last + 0.2 * away + along(2 * width * rng.standard_normal((contexts, 20)))
    drawn = (last + 0.5 * away)[:, None] + along(width * rng.standard_normal((contexts, draws, 20)))
    found = reversion_and_spread(Steps(last, truth, mean + 0 * last, drawn), axes)
    assert set(found) == {"all", "PC 1-3", "PC 4-10", "the rest"}
    for name, count, scale, size in (
        ("PC 1-3", 3, 2e-4, 3e-4),
        ("PC 4-10", 7, 1e-4, 1e-4),
        ("the rest", 10, 1e-4, 1e-4),
    ):
        band = found[name]
        assert band["reversion_md"] == pytest.approx(0.2, abs=0.12)
        assert band["reversion_model"] == pytest.approx(0.5, abs=0.05)
        assert band["spread"] == pytest.approx(100 * count * scale**2, rel=0.1)
        # the model's mean is off by MD's width and by 30 % of the way
        assert band["needed"] == pytest.approx(100 * count * (4 * scale**2 + 0.09 * size**2), rel=0.15)
        assert band["moved"] == pytest.approx(100 * count * (4 * scale**2 + 0.04 * size**2), rel=0.15)
    assert found["all"]["spread"] == pytest.approx(sum(found[name]["spread"] for name in list(found)[1:]))
    doubled = {name: {key: 3 * value for key, value in band.items()} for name, band in found.items()}
    assert pooled_bands([found, doubled])["all"]["moved"] == pytest.approx(2 * found["all"]["moved"])
    # frames that lie elsewhere in another pose give the same
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = Steps(*(x @ turn.T + 5.0 for x in (last, truth, mean + 0 * last, drawn)))
    again = reversion_and_spread(moved, axes)
    assert again["PC 1-3"]["needed"] == pytest.approx(found["PC 1-3"]["needed"], rel=1e-4)


def test_axes_are_those_of_the_frames(trpcage):
    axes = principal_axes(trpcage)
    frames = trpcage.replicas[0].rigids(np.arange(len(trpcage.replicas[0]))).translations.double().numpy()
    assert (axes.frames, axes.picoseconds) == (len(frames), len(frames) * trpcage.replicas[0].interval)
    assert axes.vectors.shape == (60, 54) and np.allclose(axes.vectors.T @ axes.vectors, np.eye(54))
    apart = superpose(frames, axes.mean) - axes.mean
    shares = axes.project(apart, np.broadcast_to(axes.mean, apart.shape)).var(0)
    assert (np.diff(shares) <= 1e-12).all() and shares.sum() == pytest.approx(apart.var(0).sum(), rel=1e-3)


def test_histories_are_those_of_md(trpcage, monkeypatch):
    replica = trpcage.replicas[0]
    found = places([replica], 100.0, 9)
    step = round(100 / replica.interval)
    listed = [(count, frame) for count, group in found.items() for _, frame, _ in group]
    assert len(listed) == 9 and listed[0] == (1, step - 1) and listed[-1][1] == len(replica) - step - 1
    assert all(count == (frame + 1) // step for count, frame in listed)
    assert places([replica], 0.3, 9) == {}

    seen, restore = [], next_frame.Rollout.restore

    def restoring(self, frames, count, offset, *reference):
        if count:
            seen.append((frames, count))
        restore(self, frames, count, offset, *reference)

    monkeypatch.setattr(next_frame.Rollout, "restore", restoring)
    torch.manual_seed(0)
    steps = teacher_forced(Network(CONFIG).eval(), trpcage, 100.0, 9, 2)
    assert steps is not None and steps.drawn.shape == (9, 2, 20, 3)
    row = 0
    for frames, count in seen:
        for number, frame in enumerate(f for c, f in listed if c == count):
            for kept, backbone in frames.items():
                place = frame + (kept - count) * step
                expected = trpcage.features.reference if kept == 0 else replica.rigids(np.array(place))
                wanted = backbone_from_rigids(expected.to(torch.float64))
                assert all(torch.equal(backbone[2 * number + draw], wanted) for draw in range(2))
            following = replica.rigids(np.array(frame + step)).translations.double().numpy()
            assert np.allclose(steps.truth[row], superpose(following[None], steps.last[row])[0])
            row += 1
    assert row == 9 and not np.allclose(steps.drawn[:, 0], steps.drawn[:, 1])


@pytest.mark.slow
def test_the_script_measures_and_names_the_worst(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    save_weights(tmp_path / "weights", Network(CONFIG), CONFIG)
    words = ["--weights", tmp_path / "weights", "--proteins", "1l2y_A", "2op7_A", "nobody", "--windows", 1]
    words += [
        "--frames",
        3,
        "--contexts",
        2,
        "--draws",
        2,
        "--json",
        tmp_path / "x.json",
        "--markdown",
        tmp_path / "x.md",
    ]
    monkeypatch.setattr("sys.argv", ["denoising", *map(str, words)])
    denoising.main()
    shown = capsys.readouterr()
    assert "no MD of them: nobody" in shown.err
    found = json.loads((tmp_path / "x.json").read_text())
    split = json.loads(denoising.SPLIT.read_text())
    assert set(found["pool"]) <= set(split["pool"]) and len(found["pool"]) > 5
    group = found["groups"]["named"]
    assert {(e["protein"], e["stride"]) for e in group["errors"]} == {
        (p, s) for p in ("1l2y_A", "2op7_A") for s in (10, 100)
    }
    for row in group["linear"]:
        (last,) = {
            e["last_frame"] for e in group["errors"] if (e["protein"], e["stride"]) == (row["protein"], row["stride"])
        }
        assert row["best_rmse"] <= min(row["rmse"], last) and 3 < row["fitted_on"] <= len(found["pool"])
    assert (tmp_path / "x.md").read_text().count("| **mean** |") == 4
    errors = [denoising.Error("a", 10.0, 0.6, 2.0, 1.0), denoising.Error("b", 10.0, 0.6, 3.0, 2.0)]
    assert denoising.worst(errors) == "a, 2.00 times the last frame's at τ 0.6"
    assert "worst: " in shown.out and shown.out.count("Reversion furthest from MD's: ") == 2
    assert "Principal components rest on all frames of MD" in shown.out


def test_a_protein_is_not_judged_by_coefficients_of_its_own(trpcage):
    settings = denoising.DenoisingSettings(strides=(10.0,), windows=3)
    network = Network(CONFIG)
    grams = denoising.fitted_grams([trpcage], settings, network)
    test = denoising.DenoisingTest([trpcage], settings, CONFIG)
    (row,) = denoising.linear(test, grams)
    assert row["fitted_on"] == 0 and "rmse" not in row
    (row,) = denoising.linear(test, {10.0: {"other": grams[10.0]["1l2y_A"]}})
    assert row["rmse"] == row["best_rmse"] and row["c"] == row["best_c"]
