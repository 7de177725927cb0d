"""Whole evaluations of runs whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from openmm_starmd.evaluation.evaluate import evaluate
from openmm_starmd.evaluation.metrics import Settings
from tests.moving_villin import moving, run_of


@pytest.mark.slow
def test_evaluation_of_identical_shuffled_and_frozen_runs():
    pytest.importorskip("deeptime")
    reference = run_of(moving(200), "MD")
    order = np.random.default_rng(0).permutation(200)
    shuffled = replace(
        reference,
        label="shuffled",
        alphas=reference.alphas[order],
        valid=reference.valid[order],
        atoms=reference.atoms[order],
        codes=reference.codes[order],
    )
    other = run_of(moving(300, seed=1), "second")
    outcome = evaluate([reference, other], [replace(reference, label="same"), shuffled])
    rows = {row.label: row for row in outcome.rows}
    same, mixed, frozen = (rows[k].figures for k in ("same", "shuffled", "frozen structure"))
    assert outcome.match.frames == 200 and rows["second"].kind == "replica"
    assert same["jsd"] == same["lag_error"] == same["autocorrelation_error"] == 0 and same["recall"] == 1
    assert same["tica"] == pytest.approx(1) and same["vamp2_gap"] == pytest.approx(0, abs=1e-9)
    # a shuffle keeps what is visited and destroys when
    assert mixed["jsd"] == 0 and mixed["recall"] == 1 and mixed["rmsf_correlation"] == pytest.approx(1)
    assert mixed["lag_error"] > 0.15 and mixed["autocorrelation_error"] > 0.15
    assert mixed["vamp2_gap"] > 0.5 and mixed["transitions"] > 2 * same["transitions"]
    assert frozen["rmsf_amplitude"] == pytest.approx(0, abs=1e-4) and frozen["recall"] < 0.1
    assert frozen["lag_error"] == pytest.approx(1, abs=1e-3)
    assert any(label.startswith("elastic network") for label in rows)
    # both generated runs are the reference, shuffled or not
    assert outcome.pooled.correlations[0] == pytest.approx(1) and outcome.pooled.correlation < 1
    assert rows["second"].figures["rmsf_correlation"] == pytest.approx(outcome.pooled.correlations[1])
    said = " ".join(outcome.notes)
    assert "RMSF of the 2 generated runs, pooled" in said and "with MD, " in said and "ceiling of RMSF r" in said
    assert "floor of RMSF r" in said and "with hindsight" in said
    table = outcome.table()
    assert "10 bins" in table and "base 2" in table and "square root" in table and "second 300 x 10 ps" in table


def test_json_is_plain_and_replaced_in_one_move(tmp_path):
    pytest.importorskip("deeptime")
    run = run_of(moving(60), "MD")
    outcome = evaluate([run], [replace(run, label="same")], Settings(bins=7, networks=False))
    path = outcome.write_json(tmp_path / "evaluation.json")
    read = json.loads(path.read_text())
    assert read["settings"]["bins"] == 7 and read["runs"][1]["figures"]["jsd"] == 0
    assert read["runs"][-1]["figures"]["rmsf_correlation"] is None and read["matched"]["span"] == 590
    assert not any("elastic network" in note for note in read["notes"])  # three eigenvalue problems of 3N
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]


def test_no_rmsf_of_fewer_than_ten_frames():
    pytest.importorskip("deeptime")
    run = run_of(moving(9), "MD")
    outcome = evaluate([run], [replace(run, label="same"), replace(run, label="again")])
    assert np.isnan(outcome.rows[1].figures["rmsf_correlation"]) and np.isnan(outcome.rows[1].figures["rmsf_amplitude"])
    assert "RMSF r" not in outcome.table().splitlines()[0] and outcome.pooled is None
    assert "RMSF r and amplitude are not given: of 9 frames they are noise, 10 are needed" in outcome.notes
    assert outcome.as_dict()["pooled"] is None
    run = run_of(moving(10), "MD")
    assert evaluate([run], [replace(run, label="same")]).rows[1].figures["rmsf_correlation"] == pytest.approx(1)


def test_a_run_of_nan_is_counted_as_invalid():
    pytest.importorskip("deeptime")
    reference = run_of(moving(60), "MD")
    broken = moving(60)
    broken.xyz[30:] = np.nan
    outcome = evaluate([reference], [run_of(broken, "broken")], Settings(networks=False))
    figures, good = outcome.rows[1].figures, int(reference.valid[:30].sum())
    assert figures["valid"] == good / 60 and figures["counted"] == good > 10 and figures["precision"] == 1
    assert "rmsf_correlation" not in figures and "broken" in outcome.table()


def test_wrong_inputs_are_named():
    run = run_of(moving(20), "MD")
    with pytest.raises(ValueError, match="at least one other run"):
        evaluate([run], [])
    with pytest.raises(ValueError, match="MD has 35 residues and short 34"):
        evaluate([run], [replace(run, label="short", residues=run.residues[:34])])
    with pytest.raises(ValueError, match="residue 3 is . in MD and A in other"):
        evaluate([run], [replace(run, label="other", residues=(*run.residues[:2], "A", *run.residues[3:]))])
    with pytest.raises(ValueError, match="valid frames of 20: check that its molecules are whole"):
        evaluate([replace(run, valid=np.zeros(20, bool))], [run])
