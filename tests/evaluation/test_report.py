"""The report: one file, nothing from elsewhere, and it renders in a real browser; the command that writes it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from typer.testing import CliRunner

from openmm_starmd.cli import evaluate as commands
from openmm_starmd.evaluation import report, runs
from openmm_starmd.evaluation.evaluate import Evaluation, evaluate
from tests.moving_villin import moving, villin

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    for package in ("deeptime", "matplotlib", "jinja2"):
        pytest.importorskip(package)
    reference = runs.reduce(moving(80), "MD")
    second = runs.reduce(moving(80, seed=1), "second </script><b>&")
    return evaluate([reference], [second, replace(reference, label="same")])


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    return report.write_report(evaluation, tmp_path_factory.mktemp("report") / "report.html", "villin <test>")


def test_page_holds_everything(page, evaluation):
    text = page.read_text()
    assert [p.name for p in page.parent.iterdir()] == ["report.html"]
    assert text.count('src="data:image/png;base64,') == 5
    assert not re.search(r'(?:src|href)\s*=\s*"(?!data:)', text)
    assert "http" not in text.replace("http-equiv", "")
    assert "villin &lt;test&gt;" in text and "second &lt;/script&gt;&lt;b&gt;&amp;" in text
    traces = json.loads(re.search(r'id="traces">(.*?)</script>', text, re.S).group(1))
    assert [run["label"] for run in traces["runs"]][:2] == ["MD", "second </script><b>&"]
    assert len(traces["runs"][0]["frames"][0]) == 3 * len(evaluation.residues)


def test_page_renders_in_a_browser_without_errors(page, tmp_path):
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        pytest.skip("no chromium")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=4000",
        "--dump-dom",
        page.as_uri(),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        pytest.skip("chromium did not answer in time")
    root = re.search(r"<html[^>]*>", done.stdout).group(0)
    assert 'data-ready="yes"' in root and "data-error" not in root
    # one box per run, made by the script
    assert done.stdout.count('<input type="checkbox">') == 5
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize(
    "missing, extra", [("matplotlib.figure", "analysis"), ("deeptime", "analysis"), ("jinja2", "analysis")]
)
def test_a_missing_extra_is_named(missing, extra, evaluation, monkeypatch):
    for name in [n for n in sys.modules if n == missing or n.startswith(missing + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="analysis"):
        if missing == "deeptime":
            run = runs.reduce(moving(30), "MD")
            evaluate([run], [replace(run, label="same")])
        else:
            report.render(evaluation)


def test_what_the_page_is_made_of_comes_with_the_package():
    folder = files("openmm_starmd.evaluation")
    assert "{{ title }}" in folder.joinpath("report.html.jinja").read_text(encoding="utf-8")
    assert "getContext" in folder.joinpath("viewer.js").read_text(encoding="utf-8")


def test_the_script_stands_in_the_page_as_it_is(page):
    script = files("openmm_starmd.evaluation").joinpath("viewer.js").read_text(encoding="utf-8")
    assert script in page.read_text() and "</script" not in script


def command():
    import typer

    app = typer.Typer()
    app.command()(commands.evaluate)
    return app


@pytest.mark.slow
def test_command_writes_table_json_and_report(tmp_path):
    pytest.importorskip("deeptime")
    start, first, second = villin(), moving(60), moving(90, seed=1)
    start.save_pdb(str(tmp_path / "start.pdb"))
    first.save_xtc(str(tmp_path / "md.xtc"))
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    # the run has Cα only, its own topology and a stride in its config; DCD times are not to be trusted
    trace = second.atom_slice(second.topology.select("name CA"))
    trace[0].save_pdb(str(drawn / "topology.pdb"))
    trace.save_dcd(str(drawn / "trajectory.dcd"))
    (drawn / "config.json").write_text('{"stride": 20.0}')
    arguments = [str(tmp_path / "md.xtc"), "--generated", str(drawn / "trajectory.dcd")]
    arguments += ["--topology", str(tmp_path / "start.pdb"), "--output", str(tmp_path / "out"), "--bins", "8"]
    result = CliRunner().invoke(command(), arguments)
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"evaluation.json", "table.md", "report.html"}
    read = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert read["matched"] == {"steps": [2, 1], "frames": 30, "stride": 20.0, "span": 580.0}
    assert read["runs"][1]["label"] == "trajectory" and read["runs"][1]["figures"]["frames"] == 90
    assert read["runs"][1]["figures"]["ramachandran"] is None and read["settings"]["bins"] == 8
    assert "| trajectory | generated |" in result.output

    missing = CliRunner().invoke(command(), [*arguments[:2], "nowhere.dcd", *arguments[3:]])
    assert missing.exit_code == 2 and "there is no file nowhere.dcd" in missing.output
    wrong = [str(drawn / "trajectory.dcd"), *arguments[1:]]
    unfit = CliRunner().invoke(command(), wrong)
    assert unfit.exit_code == 2 and "start.pdb" in unfit.output


def test_long_trajectories_are_read_in_parts(tmp_path):
    part = runs.reduce(moving(7), "a")
    whole = runs.joined(
        [
            part.thinned(1, 4),
            replace(part, alphas=part.alphas[4:], valid=part.valid[4:], atoms=part.atoms[4:], codes=part.codes[4:]),
        ]
    )
    np.testing.assert_array_equal(whole.alphas, part.alphas)
    np.testing.assert_array_equal(whole.atoms.rotamer, part.atoms.rotamer)
    np.testing.assert_array_equal(whole.codes, part.codes)
