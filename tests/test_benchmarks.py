"""The benchmarks: their statistics and tables on made-up results, their drawing and training on small ones."""

from __future__ import annotations

import argparse
import copy
import importlib
import json
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from benchmarks import ablation, coverage, fidelity, learning_curves, throughput
from benchmarks.lib import criteria, drawing, side_chains, stationarity, throughput_measure
from benchmarks.lib.paths import BENCHMARKS
from openmm_starmd.model.config import preset
from openmm_starmd.model.masks import block_causal_mask
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights
from openmm_starmd.release import figures

SCRIPTS = sorted(
    ".".join(path.relative_to(BENCHMARKS.parent).with_suffix("").parts)
    for folder in (BENCHMARKS, BENCHMARKS / "derive")
    for path in folder.glob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main()
    assert not ended.value.code
    assert "usage:" in capsys.readouterr().out


def made_up(shift: float = 0.0, second: bool = True) -> dict:
    """A protein: two seeds 0.2 apart around 0.5, a ceiling, a floor with nothing but recall."""

    def row(label: str, *runs: dict[str, float]) -> dict:
        return coverage.summarise([coverage.evaluate.Row(label, "generated", run) for run in runs], label)

    every = [dict.fromkeys(coverage.KEYS, value + shift) for value in (0.4, 0.6)]
    rows = {"model": row("**STAR-MD**", *every), "frozen": row("frozen structure", {"recall": 0.1, "tica": np.nan})}
    if second:
        rows["second"] = row("second MD replica", dict.fromkeys(coverage.KEYS, 0.9))
    lags = {"rmsd": [1, 10], "autocorrelation": [0, 5], "tica": [1]}
    return {
        "residues": 20,
        "frames": 20,
        "span_ps": 200.0,
        "reference_replica": 1,
        "reference_valid": 1.0,
        "explained": 0.8,
        "lags": lags,
        "rows": rows,
    }


def line(text: str, label: str, which: int = 0) -> list[str]:
    found = [part for part in text.splitlines() if f"| {label} |" in part]
    return [cell.strip() for cell in found[which].strip("|").split("|")]


def test_coverage_table():
    results = {"one": made_up(), "two": made_up(0.2, second=False)}
    summary = coverage.means(results)
    settings = coverage.evaluate.Settings()
    text = coverage.table(results, summary, settings)
    head = [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
    assert head[2:6] == ["valid Cα %", "JSD (root, base 2)", "recall", "precision"] and len(head) == 12
    # over seeds
    model = line(text, "**STAR-MD**")
    assert model[0] == "one (20)" and model[2:4] == ["50.0 ± 14.1", "0.50 ± 0.14"]
    frozen = line(text, "frozen structure")
    assert frozen[4] == "0.10" and set(frozen[2:4] + frozen[5:]) == {"-"}
    # over proteins, of the means over seeds, and the worst of them: the lowest share valid, the highest distance
    assert line(text, "**STAR-MD**", 2)[1:4] == ["2", "60.0 ± 14.1", "0.60 ± 0.14"]
    worst = line(text, "**STAR-MD**, worst protein")
    assert worst[2:5] == ["50.0 (one)", "0.70 (two)", "0.50 (one)"] and worst[7] == "0.50 (one)"
    # the ceiling is known for one protein only
    assert line(text, "STAR-MD minus second MD replica")[1:4] == ["1", "-40.0", "-0.40"]
    difference = summary["model minus frozen"]
    assert difference["mean"]["recall"] == pytest.approx(0.5) and difference["mean"]["tica"] is None
    json.dumps([results, summary], allow_nan=False)
    said = " ".join(coverage.notes(results, settings, "timing", 10.0))
    for part in ("square root", "base 2", "10 bins", "2 principal components", "20 frames over 200 ps", "one 100 ps"):
        assert part in said


def test_paper_rows():
    text = coverage.paper_table()
    assert "not comparable" in text and "the paper's own" in text.lower() and "100 ns, 82 test proteins" in text
    assert line(text, "STAR-MD")[1:] == ["0.43", "0.54", "0.17", "0.07", "0.02", "0.10", "86.8", "85.3"]
    assert line(text, "second MD replica")[1:] == ["0.31", "0.67", "0.17", "-", "-", "-", "-", "96.4"]
    assert line(text, "ConfRover")[1:] == ["0.52", "0.36", "0.15", "0.20", "0.08", "-", "-", "52.1"]
    assert line(text, "MDGen")[1:] == ["0.56", "0.28", "0.12", "-", "-", "-", "-", "68.3"]
    assert line(text, "AlphaFolding")[1:] == ["-", "0.01", "0.17", "-", "-", "-", "-", "0.11"]


def test_equal_wall_clock(tmp_path):
    # 3 frames stand for 7, 10 for 4, in order
    assert coverage.spread_evenly(3, 7).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert coverage.spread_evenly(10, 4).tolist() == [0, 2, 5, 7]
    speed = tmp_path / "speed.json"
    arguments = argparse.Namespace(ratio=None, speed=speed, weights="w", stride=10.0, steps=10)
    assert coverage.wall_clock(arguments)[0] is None and "left out" in coverage.wall_clock(arguments)[1]
    found = {"ratio": [30, 10, 20], "structure": "test.pdb", "residues": 35, "weights": "w", "stride_ps": 10.0}
    speed.write_text(json.dumps(found | {"steps": 10, "device": "cpu"}))
    ratio, said = coverage.wall_clock(arguments)
    assert ratio == 20 and "test.pdb" in said and "NOT" not in said
    arguments.steps = 5
    assert "NOT" in coverage.wall_clock(arguments)[1]
    arguments.ratio = 4.0
    assert coverage.wall_clock(arguments)[0] == 4.0


def autoregressive(rng: np.random.Generator, runs: int, count: int, time: float) -> np.ndarray:
    """Series [runs, count] of unit variance with an exponential correlation time."""
    keep = np.exp(-1 / time)
    values = rng.normal(size=(runs, count))
    for i in range(1, count):
        values[:, i] = keep * values[:, i - 1] + np.sqrt(1 - keep**2) * values[:, i]
    return values


def test_slope_of_a_line():
    found = stationarity.slope(2.0 + 0.5 * np.arange(50), interval=0.1)
    assert found.value == pytest.approx(5.0) and found.error == pytest.approx(0.0, abs=1e-9) and not found.flat
    # ordinary least squares where values are independent
    y = np.random.default_rng(1).normal(size=2000)
    t = np.arange(2000)
    fitted, covariance = np.polyfit(t, y, 1, cov=True)
    found = stationarity.slope(y)
    assert found.value == pytest.approx(fitted[0]) and found.error == pytest.approx(np.sqrt(covariance[0, 0]), rel=0.15)


def test_slope_knows_of_correlation():
    rng = np.random.default_rng(0)
    series = autoregressive(rng, 300, 1000, 10.0)
    found = [stationarity.slope(y) for y in series]
    spread = np.std([s.value for s in found])
    assert np.mean([s.error for s in found]) == pytest.approx(spread, rel=0.15)
    assert np.mean([not s.flat for s in found]) < 0.12
    # taking the values for independent would have it wrong: the error is 4 times that
    t = np.arange(1000) - 499.5
    assert np.mean([s.error for s in found]) > 3 / np.sqrt((t**2).sum())
    # a drift of two standard deviations over the run is seen
    drift = series + 2 * np.arange(1000) / 1000
    assert np.mean([stationarity.slope(y).flat for y in drift]) < 0.05
    # three runs together: mean, and the error of a mean
    three = stationarity.pooled(found[:3])
    assert three.value == pytest.approx(np.mean([s.value for s in found[:3]]))
    assert three.error == pytest.approx(np.sqrt(sum(s.error**2 for s in found[:3])) / 3)


def test_too_few_independent_values_make_no_verdict():
    found = stationarity.slope(np.sin(np.arange(200) / 100))
    assert np.isnan(found.error) and not found.flat
    with pytest.raises(ValueError, match="at least three"):
        stationarity.slope(np.array([1.0, 2.0]))


MOVED = "r of the displacement over 100 ps"


def protein_figures(**changes) -> dict:
    """What fidelity.measure gives, of a protein that passes everything."""
    model = {"valid": 1.0, "rmsf_correlation": 0.9, "rmsf_amplitude": 1.0, "lag_ratios": [1.0, 1.0], "lag_ratio": 1.0}
    moved = {"correlation": 0.9, "correlations": [0.9, 0.9], "amplitude": 1.0}
    model |= {"rmsd_to_start": 0.15, "rg": 1.0, "rmsf_correlations": [0.9, 0.9], "displacements": [moved, moved]}
    slopes = {key: {"value": 0.001, "error": 0.001, "independent": 50.0, "seeds": []} for key in ("rmsd", "rg")}
    side = {"ramachandran": 0.01, "rotamer": 0.05, "within_limits": 0.9, "chi1_distance": 0.1, "chi1_alike": 0.8}
    side |= {"chi1_same": 0.9, "chi1_error": 5.0, "chi1_jumps": 0.01}
    result = {
        "residues": 20,
        "frames": 100,
        "references": 2,
        "lag_ps": [100.0, 200.0],
        "reference": {"valid": 1.0, "rmsd_to_start": [0.15, 0.02], "rmsd_block_sd": 0.01, "rg": [1.0, 0.01]},
        "model": copy.deepcopy(model) | {"seeds": [dict(model), dict(model)]},
        "second": copy.deepcopy(model) | {"rmsf_correlation": 0.95},
        "floor": "ANM 13 Å",
        "networks": {"GNM 7 Å": 0.7, "ANM 13 Å": 0.6},
        "network_displacements": [{"GNM 7 Å": 0.5, "ANM 13 Å": 0.6} for _ in range(2)],
        "frozen": {"valid": 1.0, "rmsd_to_start": 0.0, "rg": 1.0},
        "slopes": {"frames": 2000, **slopes},
        "side_chains": {"residues": 15, **{kind: dict(side) for kind in ("model", "second", "frozen", "reference")}},
    }
    for path, value in changes.items():
        place = result
        *outer, last = path.split("__")
        for part in outer:
            place = place[int(part) if part.isdigit() else part]
        place[last] = value
    return result


def verdicts(**changes) -> dict[str, bool | None]:
    results = {"good": protein_figures(), "changed": protein_figures(**changes)}
    lines = criteria.judge(results, 200)
    text = figures.criteria_table(lines)
    assert len(text.splitlines()) == len(lines) + 2
    assert text.count("**FAIL**") == sum(line["passed"] is False for line in lines)
    return {line["line"]: line["passed"] for line in lines}


def test_everything_passes_when_everything_is_right():
    found = verdicts()
    assert len(found) == 17 and set(found.values()) == {True}


@pytest.mark.parametrize(
    ("change", "value", "failing"),
    [
        ("model__valid", 0.975, {"valid over 200 frames, mean"}),
        ("model__valid", 0.96, {"valid over 200 frames, mean", "valid, worst protein"}),
        ("model__rmsf_correlation", 0.7, {"RMSF r, mean", "RMSF r, every protein"}),
        # a mean does not show one protein that is off
        ("model__rmsf_correlation", 0.85, {"RMSF r, every protein"}),
        # the network that fits a protein best is not the floor
        ("networks__GNM 7 Å", 1.2, set()),
        ("networks__ANM 13 Å", 0.95, {"RMSF r beside a network's, every protein"}),
        (
            "networks__ANM 13 Å",
            1.3,
            {"RMSF r beside a network's, mean", "RMSF r beside a network's, every protein"},
        ),
        (
            "model__displacements__0__correlation",
            0.55,
            {f"{MOVED}, mean", f"{MOVED}, every protein", f"{MOVED} beside a network's, every protein"},
        ),
        ("model__rmsf_amplitude", 0.69, {"RMSF amplitude, every protein"}),
        ("model__rmsf_amplitude", 1.31, {"RMSF amplitude, every protein"}),
        ("model__lag_ratios", [1.0, 0.69], {"RMSD against lag, every protein"}),
        ("model__rmsd_to_start", 0.181, {"RMSD to start, every protein"}),
        ("slopes__rmsd__value", -0.0021, {"slope of RMSD to start over the second half of 2000 frames"}),
        ("slopes__rg__error", float("nan"), {"slope of Rg over the second half of 2000 frames"}),
        ("side_chains__model__rotamer", 0.1, {"side chains: rotamer outliers"}),
        ("side_chains__model__chi1_alike", 0.5, {"side chains: χ1 populations alike (< 0.25)"}),
    ],
)
def test_each_line_fails_for_its_own_reason(change, value, failing):
    found = verdicts(**{change: value})
    assert {name for name, passed in found.items() if not passed} == failing


def test_what_was_not_measured_is_no_pass():
    # a mean RMSF r is known of one protein, all else of both
    found = verdicts(slopes=None, model__lag_ratios=[], lag_ps=[])
    assert [passed for name, passed in found.items() if name.startswith("slope")] == [None, None]
    assert verdicts(second=None)["RMSF r, mean"] is None  # the other protein has one
    # too few frames for an RMSF: no verdict on that protein, and none at all where all are such
    few = {"model__rmsf_correlation": None, "model__rmsf_amplitude": None}
    few |= {"networks": dict.fromkeys(("GNM 7 Å", "ANM 13 Å"))}
    found = verdicts(**few)
    assert found["RMSF r, mean (1 of 2 proteins)"] is True and found["RMSF amplitude, every protein"] is True
    lines = {x["line"]: x["passed"] for x in criteria.judge({"short": protein_figures(**few)}, 200)}
    assert lines["RMSF r, every protein"] is None and lines["RMSF amplitude, every protein"] is None
    assert lines[f"{MOVED}, every protein"] is True
    lag = "RMSD against lag, every protein"
    assert verdicts(lag_ps=[50.0, 100.0])[lag] is None
    assert verdicts(lag_ps=[50.0, 100.0], model__lag_ratios=[1.0, 0.6])[lag] is False


def test_side_chain_agreement():
    # residue 0: always gauche+; 1: half trans, half gauche-; 2: as 0, but in the other run trans
    reference = np.array([[60.0, 180.0, 60.0]] * 2 + [[60.0, 300.0, 60.0]] * 2)
    run = np.array([[70.0, 170.0, 180.0]] * 4)
    assert side_chains.populations(reference).tolist() == [[1, 0, 0], [0, 0.5, 0.5], [1, 0, 0]]
    found = side_chains.agreement(run, reference)
    assert found["chi1_distance"] == pytest.approx((0 + 0.5 + 1) / 3)
    assert found["chi1_alike"] == pytest.approx(1 / 3)
    assert found["chi1_same"] == pytest.approx(2 / 3)
    assert found["chi1_error"] == pytest.approx(10.0)
    assert found["chi1_jumps"] == 0 and side_chains.agreement(reference, reference)["chi1_jumps"] == pytest.approx(
        1 / 9
    )
    same = side_chains.agreement(reference, reference)
    assert same["chi1_distance"] == 0 and same["chi1_alike"] == 1 and same["chi1_error"] == pytest.approx(0)


def test_side_chains_of_md():
    folder = BENCHMARKS / "data" / "1l2y_A"
    first, second = (drawing.read_replica(folder, n, 10.0, atoms=True)[:20] for n in (1, 2))
    residues, angles = side_chains.chi1(first)
    names = [first.topology.residue(i).name for i in residues]
    assert angles.shape == (20, len(residues)) and not {"GLY", "ALA", "PRO"} & set(names) and len(names) == 13
    _, radians = mdtraj.compute_chi1(first)
    assert np.allclose(angles[:, 0], np.degrees(radians[:, 0]) % 360)
    bonded = np.ones(19, dtype=bool)
    found = side_chains.compare([first], first, second, first[0], bonded)
    assert found["model"]["chi1_alike"] == 1 and found["model"]["chi1_distance"] == 0
    assert 0 < found["second"]["chi1_distance"] < 1
    text = figures.side_chain_table({"trp-cage": {"side_chains": found}})
    assert line(text, "**STAR-MD**")[0] == "trp-cage (13 χ1)" and line(text, "reference MD")[5:9] == ["-"] * 4
    assert figures.side_chain_table({"trp-cage": {"side_chains": None}}) == ""


def test_lags_and_blocks():
    # as long as MD has ten windows of it, a frame every ps
    assert fidelity.lags_of(10.0, 1000.0) == [10, 20, 50, 100, 200]
    assert fidelity.lags_of(10.0, 200.0) == [10, 20, 50, 100]
    assert fidelity.lags_of(10.0, 109.0) == [10, 20, 50]
    assert fidelity.lags_of(100.0, 130.0) == [100]
    assert fidelity.lags_of(20.0, 1000.0) == [20, 100, 200]
    assert fidelity.lags_of(10.0, 115.0, 2.0) == [10, 20, 50]
    # ten windows of the longest lag
    assert fidelity.windows(13, 10.0, [10.0, 100.0]) == 20 and fidelity.windows(100, 10.0, [10.0, 100.0]) == 100
    assert fidelity.windows(1, 100.0, [100.0]) == 11
    mean, spread = fidelity.block_spread([np.arange(10.0), 10.0 + np.zeros(5)])
    assert mean == pytest.approx((45 + 50) / 15)
    assert spread == pytest.approx(np.std([0.5, 2.5, 4.5, 6.5, 8.5] + [10.0] * 5, ddof=1))


def broken(run: mdtraj.Trajectory, frames: int) -> mdtraj.Trajectory:
    """A run that is not finite after so many frames."""
    xyz = run.xyz.copy()
    xyz[frames:] = np.nan
    return mdtraj.Trajectory(xyz, run.topology)


def test_fidelity_of_md_that_plays_the_model(monkeypatch, tmp_path):
    """Replica 1 drawn as the model: figures against both replicas, replicas of different lengths, both strides."""
    name = "1l2y_A"
    source, folder = BENCHMARKS / "data" / name, tmp_path / name
    folder.mkdir()
    (folder / f"{name}.pdb").write_bytes((source / f"{name}.pdb").read_bytes())
    replicas = [mdtraj.load(str(source / f"{name}_prod_R{n}_fit.xtc"), top=str(source / f"{name}.pdb")) for n in (1, 2)]
    replicas[0].save_xtc(str(folder / f"{name}_prod_R1_fit.xtc"))
    replicas[1][:150].save_xtc(str(folder / f"{name}_prod_R2_fit.xtc"))
    asked = []

    def played(path, frames, seeds, stride, settings):
        asked.append((frames, list(seeds), stride))
        step = int(stride)
        return [replicas[0][step - 1 :: step][:frames] for _ in seeds]

    monkeypatch.setattr(fidelity, "rollouts", played)
    arguments = argparse.Namespace(frames=15, slope=18, seeds=[0, 1], pool=3, side_chains=True)
    settings = drawing.Drawing("none")
    result = fidelity.measure(folder, 1, 10.0, settings, arguments, both=True)
    # as long as windows of 100 ps need, the one that is only pooled too
    assert asked == [(20, [0, 1], 10.0), (20, [2], 10.0)]
    assert result["frames"] == 15 and result["lag_ps"] == [10, 20, 50, 100] and result["references"] == 2
    assert len(result["model"]["seeds"]) == 3 and result["model"]["seeds"][2]["valid"] is None
    # half of the references is the run itself
    second = result["second"]["rmsf_correlation"]
    assert result["model"]["rmsf_correlation"] == pytest.approx((1 + second) / 2)
    assert result["model"]["rmsf_correlations"] == pytest.approx([1, second])
    # each replica beside both pooled: one above, one below
    first, other = result["model"]["rmsf_amplitude"], result["second"]["rmsf_amplitude"]
    assert min(first, other) < 1 < max(first, other)
    floor = result["networks"][result["floor"]]
    assert -1 < floor < 1 and max(result["networks"].values()) >= floor
    # over 50 ps the model's windows are every tenth of MD's
    assert result["model"]["displacements"][2]["correlations"][0] > 0.8
    assert result["side_chains"]["model"]["chi1_alike"] == 1
    assert result["slopes"]["frames"] == 18 and len(result["slopes"]["rg"]["seeds"]) == 2
    alone = fidelity.measure(folder, 1, 10.0, settings, arguments, both=False)
    assert alone["model"]["rmsf_amplitude"] == pytest.approx(1) and alone["model"]["rmsf_correlations"] == [1]
    # not one: the model has a tenth of MD's windows
    assert alone["model"]["lag_ratio"] == pytest.approx(1, abs=0.1)
    # a model that fails at frame 12 has valid frames before it, and no other figures
    monkeypatch.setattr(fidelity, "rollouts", lambda *a: [broken(run, 11) for run in played(*a)])
    lost = fidelity.measure(folder, 1, 10.0, settings, arguments, both=True)
    assert lost["model"]["valid"] == pytest.approx(11 / 15) and np.isnan(lost["model"]["rmsf_amplitude"])
    assert lost["side_chains"] is None and np.isnan(lost["slopes"]["rg"]["value"])
    judged = criteria.judge({name: lost}, 15)
    assert not any(item["passed"] for item in judged)
    assert figures.fidelity_table({name: lost}) and figures.slope_table({name: lost})
    assert figures.displacement_table({name: lost}) and "no protein" in figures.summary({name: lost})
    monkeypatch.setattr(fidelity, "rollouts", played)

    # at 50 ps there are three frames: no RMSF, but displacements over 50 and 100 ps
    short = fidelity.measure(folder, 1, 50.0, settings, arguments, both=True)
    assert short["frames"] == 3 and np.isnan(short["model"]["rmsf_correlation"]) and short["lag_ps"] == [50, 100]
    assert short["model"]["displacements"][1]["correlation"] > 0.5
    row = line(figures.fidelity_table({name: short}), "**STAR-MD**")
    assert row[3:5] == ["-", "-"] and "-" not in row[5:7]

    # MD's own RMSD to start comes from all frames of the time compared, not from those at the stride
    start = mdtraj.load(str(folder / f"{name}.pdb"))
    alphas = start.topology.select("name CA")
    every = fidelity.rmsd(replicas[0].xyz[:150, alphas], start.xyz[0, alphas])
    page = tmp_path / "page.md"
    assert alone["reference"]["rmsd_to_start"][0] == pytest.approx(every.mean(), abs=1e-6)
    json.dumps(result, allow_nan=True)

    # the whole command, at a stride of its own
    command = ["fidelity.py", name, "--data", str(tmp_path), "--stride", "5", "--frames", "10", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", [*command, "--json", str(tmp_path / "out.json"), "--markdown", str(page)])
    fidelity.main()
    assert "<!-- results:fidelity-5ps -->" in page.read_text() and "What was demanded" in page.read_text()
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["settings"]["stride"] == 5 and len(written["settings"]["weights_sha256"]) == 64
    verdicts = {item["line"]: item["passed"] for item in written["criteria"]}
    assert verdicts["RMSF amplitude, every protein"] is True


def test_rollouts_are_kept_and_taken_from_the_store(monkeypatch, tmp_path):
    path = BENCHMARKS / "data" / "1l2y_A" / "1l2y_A.pdb"
    settings = drawing.Drawing(DEFAULT_WEIGHTS, steps=2, heavy=True, store=tmp_path)
    first = drawing.rollout(path, 3, 0, 10.0, settings)
    assert first.n_frames == 3 and first.topology.n_atoms > 140 and first.time.tolist() == [10, 20, 30]
    kept = list(tmp_path.glob("1l2y_A-10ps-seed0-*.npz"))
    assert len(kept) == 1

    def fail(*_):
        raise RuntimeError("not finite")

    monkeypatch.setattr(drawing.StarMDSimulation, "step", fail)
    lost = drawing.rollout(path, 2, 5, 10.0, drawing.Drawing(DEFAULT_WEIGHTS, steps=2, heavy=True))
    assert lost.n_frames == 2 and np.isnan(lost.xyz).all()
    monkeypatch.setattr(drawing.StarMDSimulation, "step", lambda *_: pytest.fail("drawn again"))
    assert np.array_equal(drawing.rollout(path, 2, 0, 10.0, settings).xyz, first.xyz[:2])
    # Cα of several seeds are drawn together, each as it is alone, and as a simulation reports it
    plain = drawing.Drawing(DEFAULT_WEIGHTS, steps=2, store=tmp_path / "ca")
    together = drawing.rollouts(path, 3, [1, 0], 10.0, plain)
    alone = drawing.rollout(path, 3, 0, 10.0, replace(plain, store=None))
    assert together[1].n_atoms == 20 and len(list((tmp_path / "ca").iterdir())) == 2
    assert np.allclose(together[1].xyz, alone.xyz, atol=1e-4) and not np.allclose(together[0].xyz, alone.xyz, atol=1e-2)
    assert np.allclose(alone.xyz, first.atom_slice(first.topology.select("name CA")).xyz, atol=1e-4)
    # another seed, stride or number of steps is another rollout
    for other in ((path, 2, 1, 10.0, settings), (path, 2, 0, 5.0, settings)):
        with pytest.raises(pytest.fail.Exception, match="drawn again"):
            drawing.rollout(*other)
    with pytest.raises(ValueError, match="not a multiple"):
        drawing.read_replica(path.parent, 1, 1.5)
    assert drawing.read_replica(path.parent, 7, 1.0) is None


def test_throughput_table(tmp_path):
    training = {"frames": 8, "tokens_per_second": 1000.0, "steps_per_second": 2.0, "seconds_per_step": 0.5}
    training |= {"flops_per_step": 2e12, "flops_per_second": 4e12, "peak_mib": 900.0}
    rollout = {"seconds_per_denoising_step": 0.02, "seconds_per_frame": 0.42, "peak_mib": 500.0}
    rows = [
        {"device": "cpu", "preset": "mini", "residues": 64, "training": training, "rollout": rollout},
        {
            "device": "cpu",
            "preset": "mini",
            "residues": 128,
            "training": training | {"frames": 4, "seconds_per_step": 1.0},
            "rollout": {"skipped": "no repetition within 9 s"},
        },
        {
            "device": "cuda",
            "preset": "paper",
            "residues": 64,
            "training": training | {"gpu": "NVIDIA H100 80GB HBM3", "flops_per_second": 98.94e12},
            "rollout": rollout,
        },
    ]
    text = throughput.table(rows)
    cpu = [cell.strip() for cell in text.splitlines()[5].strip("|").split("|")]
    # half the frames in twice the time
    assert cpu[:3] == ["mini", "128", "4"] and cpu[6] == "4.0" and cpu[-4:] == ["-", "-", "-", "-"]
    assert "- mini N 128 rollout: no repetition within 9 s" in text
    assert "H100" in text and "| 10.0 % |" in text and text.count("share of bf16 peak") == 1
    assert throughput.peak_of("NVIDIA H100 PCIe") == 756.0 and throughput.peak_of("Voodoo 2") is None

    page = tmp_path / "results.md"
    page.write_text("# Results\n\nkept\n")
    throughput.write_block(page, "throughput", "one")
    throughput.write_block(page, "ablation", "two")
    throughput.write_block(page, "throughput", "three")
    text = page.read_text()
    assert "kept" in text and "two" in text and "three" in text and "one" not in text
    # a bare marker is filled where it stands, and nothing behind it is lost
    page.write_text("# Results\n\n<!-- results:x -->\n\nkept\n")
    throughput.write_block(page, "x", "first")
    throughput.write_block(page, "x", "second")
    text = page.read_text()
    assert text.count("results:x") == 2 and "first" not in text and text.index("second") < text.index("kept")


def test_operations_of_attention_are_counted_by_what_sees_what():
    count = throughput_measure.AttentionCount()
    tokens = torch.randn(1, 2, 12, 8, requires_grad=True)
    mask = block_causal_mask(2, 4)  # clean 0, 1, noisy 1: 1 + 2 + 2 of 9 pairs of frames
    count(tokens, tokens, tokens, mask)
    assert count.operations == 12 * 2 * 5 * 16 * 8
    # a layer of known size: y = x W forward, two products backward
    weight = torch.randn(8, 16, requires_grad=True)
    x = torch.randn(4, 8, requires_grad=True)
    assert throughput_measure.operations(lambda: (x @ weight).sum().backward()) == 3 * 2 * 4 * 8 * 16


def test_throughput_measures_small_networks():
    sizes = {"c_s": 16, "c_z": 8, "blocks": 2, "conditioner_layers": 1, "conditioner_s": 16, "conditioner_z": 8}
    config = replace(preset("mini"), **sizes, steps=2)
    short, long = (throughput_measure.measure_training(config, 12, frames, "cpu", 0.0) for frames in (2, 4))
    assert short["tokens_per_second"] == pytest.approx(24 * short["steps_per_second"])
    # 7 frames with their noisy copies against 3
    assert 1.5 < long["flops_per_step"] / short["flops_per_step"] < 3
    rollout = throughput_measure.measure_rollout(config, 12, 5, 2, "cpu", 0.0)
    assert rollout["seconds_per_frame"] == pytest.approx(3 * rollout["seconds_per_denoising_step"])
    arguments = argparse.Namespace(history=3, seconds=0.0, threads=1, memory=2.0, timeout=0.01)
    assert "0.01 s" in throughput.attempt("training", "cpu", "mini", 16, 2, arguments)["skipped"]


def test_ablation_of_made_up_rollouts():
    assert ablation.blocks(np.array([True] * 100 + [False] * 50)) == [1.0, 0.0]

    def variant(*shares: float) -> dict:
        results = {
            f"p{i}": [{"seed": s, "blocks": [share, share / 2], "valid": share, "first_invalid": 3} for s in (0, 1)]
            for i, share in enumerate(shares)
        }
        return {"summary": ablation.summarise(results), "proteins": results, "loss": 1.5}

    variants = {
        "with-joint": variant(0.9, 0.8, 0.85),
        "without-joint": variant(0.5, 0.42, 0.44),
        "bare-joint": variant(0.9, 0.7, 0.95),
        "with-separable": variant(0.9, 0.8, 0.88),
    }
    assert variants["with-joint"]["summary"]["valid"] == pytest.approx(0.85)
    assert variants["with-joint"]["summary"]["error"] == pytest.approx(0.05 / np.sqrt(3))
    gain, error = ablation.difference(variants["with-joint"]["proteins"], variants["without-joint"]["proteins"])
    assert gain == pytest.approx(np.mean([0.4, 0.38, 0.41])) and error == pytest.approx(
        np.std([0.4, 0.38, 0.41], ddof=1) / np.sqrt(3)
    )
    said = ablation.conclusion(variants)
    assert "the paper's direction" in said[0] and "not to be told from zero" in said[1] and "separable" in said[2]
    swapped = ablation.conclusion({"with-joint": variants["without-joint"], "without-joint": variants["with-joint"]})
    assert "AGAINST" in swapped[0]
    row = line(ablation.table(variants, 200), "without")
    assert row[:5] == ["without", "joint", "45.3", "22.7", "45.3 ± 2.4"]


@pytest.mark.slow
def test_ablation_trains_and_goes_on(monkeypatch, tmp_path, capsys):
    pytest.importorskip("lightning")
    (tmp_path / "data").mkdir()
    for name in ("training/1t2y_A", "1l2y_A"):
        (tmp_path / "data" / Path(name).name).symlink_to(BENCHMARKS / "data" / name)
    sizes = {"c_s": 16, "c_z": 8, "blocks": 1, "conditioner_layers": 1, "conditioner_s": 16, "conditioner_z": 8}
    sizes |= {"attention_hidden": 16, "attention_heads": 2, "steps": 2}
    (tmp_path / "narrow.json").write_text(json.dumps({"model": sizes, "windows": {"tokens": 60, "length": 4}}))
    command = ["ablation.py", "--data", str(tmp_path / "data"), "--steps", "2", "--frames", "3", "--seeds", "0"]
    command += ["--proteins", str(BENCHMARKS / "data" / "1l2y_A" / "1l2y_A.pdb"), "--output", str(tmp_path / "out")]
    command += ["--config", str(tmp_path / "narrow.json"), "--noise", "with", "without"]
    command += ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "R.md")]
    monkeypatch.setattr("sys.argv", command)
    ablation.main()
    written = json.loads((tmp_path / "a.json").read_text())
    assert list(written["variants"]) == ["with-joint", "without-joint", "with-separable", "without-separable"]
    # held-out proteins in the tree are not trained on
    assert written["settings"]["trained_on"] == ["1t2y_A"]
    configs = {key: load_weights(tmp_path / "out" / key / "weights").config for key in written["variants"]}
    assert configs["with-separable"].attention == "separable" and configs["with-joint"].attention == "joint"
    assert configs["without-joint"].context_tau == 0 and configs["with-joint"].context_tau > 0
    recipe = json.loads((tmp_path / "out" / "without-joint" / "recipe.json").read_text())
    assert recipe["objective"]["context_probability"] == 0 and recipe["objective"]["jitter_probability"] > 0
    assert "results:ablation" in (tmp_path / "R.md").read_text()

    # again: nothing is trained or drawn a second time, and the figures are the same
    monkeypatch.setattr(ablation, "rolled", lambda *_: pytest.fail("drawn again"))
    ablation.main()
    assert json.loads((tmp_path / "a.json").read_text())["variants"] == written["variants"]


@pytest.mark.slow
def test_curves(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    x = np.array([1.0, 2.0, 4.0])
    fitted = learning_curves.fit(x, 0.3 + 0.1 * np.log2(x))
    assert fitted.slope == pytest.approx(0.1 / np.log(2)) and fitted.slope_error == pytest.approx(0, abs=1e-12)
    assert fitted.at(8.0)[0] == pytest.approx(0.6) and fitted.reaches(0.7) == pytest.approx(16)
    # errors as ordinary least squares has them
    y = np.array([0.3, 0.45, 0.48])
    noisy = learning_curves.fit(x, y)
    slope, covariance = np.polyfit(np.log(x), y, 1, cov=True)
    assert noisy.slope == pytest.approx(slope[0]) and noisy.slope_error == pytest.approx(np.sqrt(covariance[0, 0]))
    assert np.isnan(learning_curves.fit(x[:2], y[:2]).slope_error)
    with pytest.raises(ValueError, match="two different x"):
        learning_curves.fit(np.array([3.0, 3.0]), y[:2])

    files = []
    for i, value in enumerate((0.3, 0.4, 0.5)):
        proteins = {
            "a": protein_figures(model__rmsf_amplitude=value),
            "b": protein_figures(model__rmsf_amplitude=value + 0.1),
        }
        if i == 1:
            proteins["only here"] = protein_figures()
        path = tmp_path / f"{i}.json"
        path.write_text(json.dumps({"settings": {"stride": 10.0}, "proteins": proteins}))
        files.append(f"{2**i}={path}")
    monkeypatch.setattr(
        "sys.argv", ["learning_curves.py", *reversed(files), "--over", "ns", "--output", str(tmp_path / "c")]
    )
    learning_curves.main()
    written = json.loads((tmp_path / "c.json").read_text())
    amplitude = written["figures"]["rmsf_amplitude"]
    assert written["x"] == [1, 2, 4] and set(amplitude["proteins"]) == {"a", "b"}
    assert amplitude["mean"] == pytest.approx([0.35, 0.45, 0.55]) and amplitude["demanded_reached_at"] == pytest.approx(
        4 * 2**1.5
    )
    assert written["figures"]["lowest_amplitude"]["mean"] == pytest.approx([0.3, 0.4, 0.5])
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    text = capsys.readouterr().out
    assert "no law" in text and "+0.100" in text
