"""The tables of the benchmarks, on made-up results."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def coverage(monkeypatch):
    """benchmarks/coverage.py, under another name than the package coverage has."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmarks_coverage", BENCHMARKS / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up(coverage, shift: float = 0.0, second: bool = True) -> dict:
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


def test_coverage_table(coverage):
    results = {"one": made_up(coverage), "two": made_up(coverage, 0.2, second=False)}
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
    # over proteins, of the means over seeds
    assert line(text, "**STAR-MD**", 2)[1:4] == ["2", "60.0 ± 14.1", "0.60 ± 0.14"]
    # the ceiling is known for one protein only
    assert line(text, "STAR-MD minus second MD replica")[1:4] == ["1", "-40.0", "-0.40"]
    difference = summary["model minus frozen"]
    assert difference["mean"]["recall"] == pytest.approx(0.5) and difference["mean"]["tica"] is None
    json.dumps([results, summary], allow_nan=False)
    said = " ".join(coverage.notes(results, settings, "timing", 10.0))
    for part in ("square root", "base 2", "10 bins", "2 principal components", "20 frames over 200 ps", "one 100 ps"):
        assert part in said


def test_paper_rows(coverage):
    text = coverage.paper_table()
    assert "not comparable" in text and "the paper's own" in text.lower() and "100 ns, 82 test proteins" in text
    assert line(text, "STAR-MD")[1:] == ["0.43", "0.54", "0.17", "0.07", "0.02", "0.10", "86.8", "85.3"]
    assert line(text, "second MD replica")[1:] == ["0.31", "0.67", "0.17", "-", "-", "-", "-", "96.4"]
    assert line(text, "ConfRover")[1:] == ["0.52", "0.36", "0.15", "0.20", "0.08", "-", "-", "52.1"]
    assert line(text, "MDGen")[1:] == ["0.56", "0.28", "0.12", "-", "-", "-", "-", "68.3"]
    assert line(text, "AlphaFolding")[1:] == ["-", "0.01", "0.17", "-", "-", "-", "-", "0.11"]


def test_equal_wall_clock(coverage, tmp_path):
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
