"""Figures of rivals: on made-up frames, and those of METHOD.md where the shared data are."""

import argparse
import json

import mdtraj
import numpy as np
import pytest

from benchmarks import rivals
from openmm_starmd.analysis.flexibility import correlation, rmsf
from openmm_starmd.analysis.network_models import FLOOR, network_modes
from openmm_starmd.analysis.validity import judge
from openmm_starmd.geometry.superposition import rmsd

BPTI = rivals.SHARED / "rivals" / "bpti"
shared = pytest.mark.skipif(not BPTI.is_dir(), reason="the shared data are not on this machine")


def wobbling(frames: int, seed: int, size: float = 0.02) -> np.ndarray:
    """A helix of twelve CA [frames, 12, 3], nm, each axis of each atom moved by `size`; its end ten times as far."""
    turn = np.radians(100) * np.arange(12)
    helix = np.stack([0.23 * np.cos(turn), 0.23 * np.sin(turn), 0.15 * np.arange(12)], -1)
    moved = np.random.default_rng(seed).normal(size=(frames, 12, 3)) * size
    moved[:, -1] *= 10
    return helix + moved


BONDED = np.ones(11, dtype=bool)


def test_a_run_equal_to_the_reference_covers_it_whole():
    frames = wobbling(200, 0, 0.005)
    figures = rivals.Reference.of(frames, BONDED).figures(frames)
    assert figures["frames"] == 200
    assert figures["amplitude"] == pytest.approx(1) and figures["r"] == pytest.approx(1)
    assert figures["jsd"] == pytest.approx(0, abs=1e-6) and figures["recall"] == 1
    assert 0 < figures["valid"] == judge(frames, BONDED).valid.mean()


def test_amplitude_and_recall_tell_a_stiff_run():
    reference = rivals.Reference.of(wobbling(2000, 0), BONDED)
    stiff = reference.figures(wobbling(2000, 1, 0.01))
    assert stiff["amplitude"] == pytest.approx(0.5, abs=0.03) and stiff["r"] > 0.98
    assert stiff["recall"] < 0.7 * reference.figures(wobbling(2000, 1))["recall"]


def test_frames_that_are_not_finite_are_invalid_and_spoil_nothing():
    reference = rivals.Reference.of(wobbling(300, 0, 0.005), BONDED)
    run = wobbling(100, 1, 0.005)
    broken = np.concatenate([run, np.full_like(run, np.nan)])
    whole, half = reference.figures(run), reference.figures(broken)
    assert half["valid"] == pytest.approx(whole["valid"] / 2)
    assert [half[key] for key in ("r", "jsd", "recall")] == [whole[key] for key in ("r", "jsd", "recall")]
    nothing = reference.figures(np.full_like(run, np.nan))
    assert nothing["valid"] == 0 and nothing["r"] is None and nothing["recall"] == 0
    json.dumps(nothing, allow_nan=False)
    mean = rivals.averaged([whole, nothing])
    assert mean["r"] == whole["r"] and mean["r_sd"] is None
    assert mean["valid"] == pytest.approx(whole["valid"] / 2)


def test_pooled_profiles_are_means_of_squares():
    runs = [wobbling(400, 0, 0.01), wobbling(400, 1, 0.03)]
    expected = np.sqrt((rmsf(runs[0]) ** 2 + rmsf(runs[1]) ** 2) / 2)
    assert rivals.pooled_profile(runs) == pytest.approx(expected)
    figures = rivals.pooled(runs, rivals.Reference.of(runs[0], BONDED))
    assert figures["frames"] == 800 and figures["rmsf_nm"] == pytest.approx(expected.tolist())


def test_stretches_reach_from_the_first_frame_to_the_last():
    parts = rivals.stretches(np.arange(1000.0), 100, 10)
    assert [part[0] for part in parts] == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    assert parts[-1][-1] == 999 and {len(part) for part in parts} == {100}
    with pytest.raises(ValueError, match="no stretch of 100 frames in 99"):
        rivals.stretches(np.arange(99.0), 100)


def test_network_frames_have_the_network_s_profile_and_the_amplitude_asked_for():
    start = wobbling(1, 0, 0.0)[0]
    modes = network_modes(start, FLOOR)
    assert len(modes.values) == 3 * 12 - 6
    frames = rivals.network_frames(start, modes, 0.05, 4000, 0)
    # a fluctuation about the start as it stands; superposition would take out some of it
    profile = np.sqrt(((frames - start) ** 2).sum(-1).mean(0))
    assert profile.mean() == pytest.approx(0.05, rel=0.02)
    assert correlation(profile, modes.rmsf()) > 0.99
    # ends of a chain are looser than its middle
    assert profile[[0, -1]].min() > profile[3:-3].max()


def test_the_atom_that_is_no_residue_is_found_by_distances():
    rng = np.random.default_rng(0)
    trace = np.cumsum(rng.normal(size=(20, 3)) * 0.2, axis=0)
    frames = np.repeat(trace[None], 5, 0) + rng.normal(size=(5, 20, 3)) * 0.01
    with_ion = np.insert(frames, 7, 3.0, axis=1)
    kept, extra = rivals.corresponding(with_ion, trace)
    assert kept.tolist() == [*range(7), *range(8, 21)] and extra["index"] == 7
    assert extra["rmsd_without_nm"] < 0.03 < 0.1 < extra["rmsd_without_the_next_best_nm"]
    with pytest.raises(ValueError, match="expected one more"):
        rivals.corresponding(frames, trace)


def test_what_is_missing_is_left_out_and_said(tmp_path, capsys):
    path = tmp_path / "rivals.json"
    rivals.main(["--data", str(tmp_path / "nothing"), "--json", str(path)])
    said = capsys.readouterr().err
    assert "left out: bpti needs" in said and "left out: dhfr needs" in said
    assert not path.exists()


@shared
@pytest.mark.slow
def test_rows_that_need_no_model_are_those_of_the_method(monkeypatch):
    """The table of METHOD.md, section 10; its JSD and recall depend a little on which frames stand for 100 µs."""
    start = rivals.traces(BPTI / "start.pdb")
    monkeypatch.setattr(rivals, "model_runs", lambda *_: [np.repeat(start, 20, 0) + wobble_bpti(start)])
    options = argparse.Namespace(data=rivals.SHARED, weights="none", seeds=[0], frames=250)
    results = rivals.bpti(options)
    rows = results["rows"]
    known = {
        "MD, another 100 µs": (100, 1.22, 0.86, 0.28, 0.90),
        "aSAMt, 100 frames": (100, 1.09, 0.75, 0.63, 0.43),
        "BioEmu, 100 frames, version and filtering not stated": (28, 1.39, 0.70, 0.52, 0.37),
        "MDGen, 250 x 400 ps": (99.6, 0.70, 0.66, 0.61, 0.21),
    }
    for label, (valid, amplitude, r, distance, recall) in known.items():
        row = rows[label]
        assert 100 * row["valid"] == pytest.approx(valid, abs=0.05)
        assert (row["amplitude"], row["r"]) == pytest.approx((amplitude, r), abs=0.006)
        assert (row["jsd"], row["recall"]) == pytest.approx((distance, recall), abs=0.025)
    # 20 stretches: their means are known to a quarter of their spread, 0.13 and 0.1
    for label, (r, distance, recall) in {"1 µs": (0.74, 0.59, 0.25), "2.5 µs": (0.76, 0.56, 0.34)}.items():
        both = [rows[f"MD, 20 stretches of {label} of {which}"] for which in ("the other 100 µs", "the reference")]
        means = [np.mean([row[key] for row in both]) for key in ("r", "jsd", "recall")]
        assert means == pytest.approx([r, distance, recall], abs=0.04)
    networks = [rows[f"elastic network of the start, amplitude {a:g}"] for a in rivals.AMPLITUDES]
    assert all(0.68 < row["r"] < 0.71 and 0.56 < row["jsd"] < 0.60 for row in networks)
    assert [row["recall"] for row in networks] == pytest.approx([0.20, 0.25, 0.29], abs=0.03)
    table = rivals.bpti_table(results)
    assert "| aSAMt, 100 frames | 100 | 100.0 | 1.09 | 0.75 | 0.63 | 0.43 | 0.43 |" in table


def wobble_bpti(start: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, *start.shape[1:])) * 0.02


@shared
@pytest.mark.slow
def test_dhfr_is_compared_over_its_residues(monkeypatch, tmp_path):
    starts = []

    def drawn(path, stride, arguments):
        frames = mdtraj.load(str(path))
        starts.append(frames)
        alphas = rivals.traces(path)
        moved = [np.random.default_rng(seed).normal(size=(250, 159, 3)) * 0.02 for seed in arguments.seeds]
        return [alphas + each for each in moved]

    monkeypatch.setattr(rivals, "model_runs", drawn)
    options = argparse.Namespace(data=rivals.SHARED, weights=rivals.DEFAULT_WEIGHTS, seeds=[0, 1], frames=250)
    results = rivals.dhfr(options)
    assert results["residues"] == 159 and results["left_out_atom"]["index"] == 159
    assert set(results["left_out_atom"]["nearest_residues"]) <= {28, 50, 52, 53, 54}
    assert results["lags_ps"] == [5, 10, 20, 50, 100, 200, 500, 1000]
    model = results["rows"][f"**{rivals.DEFAULT_WEIGHTS}**, 2 seeds"]
    assert model["rmsd_to_start_nm"] == pytest.approx(0.02 * 3**0.5, rel=0.05)
    assert model["lag_nm"] == pytest.approx([0.02 * 6**0.5] * 8, rel=0.05)
    md = results["rows"]["MD, 4 stretches"]
    assert md["valid"] > 0.99 and md["r"] > 0.7 and md["lag_nm"][1] > md["lag_nm"][0] > 0.04
    assert "| DHFR (159) |" in rivals.dhfr_table(results)
    # the start has the crystal's CA, and all peptide bonds, if two of them of a poor length
    start = starts[0]
    crystal = rivals.traces(rivals.SHARED / "eval" / "dhfr_1rx2.pdb")
    assert rmsd(start.xyz[:, start.topology.select("name CA")], crystal[0])[0] < 1e-3
    carbon, nitrogen = (start.xyz[0, start.topology.select(f"name {name}")] for name in ("C", "N"))
    lengths = np.linalg.norm(carbon[:-1] - nitrogen[1:], axis=-1)
    assert lengths.max() < 0.2
    assert np.sort(np.abs(lengths - 0.133))[:-2].max() < 0.02
