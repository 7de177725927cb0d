"""README and docs: links lead somewhere, commands and their options exist, the snippets run and print what is said."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
import typer

from benchmarks import picture, summary
from benchmarks.lib.paths import PICTURE, RESULTS, RESULTS_PAGE
from benchmarks.lib.results_page import add_markdown_option
from openmm_starmd.cli import app
from openmm_starmd.model.weights import BUNDLED, DEFAULT_WEIGHTS
from tests.hybrid.test_hybrid_examples import complete_fragment
from tests.proteins import VILLIN

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"<!-- (/?)results:([\w-]+) -->")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def snippets(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language, or of none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands() -> list[tuple[str, str]]:
    """Page and line of every indented shell line that runs the command or a benchmark."""
    pattern = re.compile(r"^(?: {4}|.*`)((?:openmm-starmd|python -m benchmarks\.\w+)[^`\n]*)", flags=re.MULTILINE)
    return [(page.name, found) for page in PAGES for found in pattern.findall(page.read_text())]


def options_of(words: list[str]) -> tuple[set[str], list[str]]:
    """Options of a command of openmm-starmd, and what follows its name on the line."""
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words[0]]
        words = words[1:]
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"no command {words[0]}"
    return {option for parameter in command.params for option in parameter.opts}, words


def test_readme_is_short_and_has_the_two_commands():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    runner = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert f"    {runner}" in lines and "    make demo" in lines
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"demo", "test", "quick"} <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(place), f"{page.name}: {target}"


def test_commands_and_their_options_exist():
    found = commands()
    assert len(found) > 30
    for page, line in found:
        words = shlex.split(line, comments=True)
        if words[0] == "python":
            module = importlib.util.find_spec(words[2])
            assert module is not None and module.origin is not None, f"{page}: {line}"
            sources = [Path(module.origin), *(ROOT / "benchmarks" / "lib").glob("*.py")]
            text = "".join(source.read_text() for source in sources)
            lacking = [word for word in words[3:] if word.startswith("--") and f'"{word}"' not in text]
            assert not lacking, f"{page}: {line}: {lacking}"
            continue
        known, rest = options_of(words[1:])
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= known | {"--help"}, f"{page}: {line}: {given - known}"


def test_every_block_of_results_has_a_heading_and_is_whole():
    text = RESULTS_PAGE.read_text()
    found = [(closing == "/", name) for closing, name in BLOCK.findall(text)]
    names = [name for _, name in found[::2]]
    assert len(set(names)) == len(names) > 15
    assert found == [pair for name in names for pair in ((False, name), (True, name))]
    # the table of contents has every heading, in order
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert re.findall(r"^- \[(.*)\]\(#", text, flags=re.MULTILINE) == headings
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert all("<!-- results:" in section for section in sections)


def test_summary_of_readme_is_that_of_the_results():
    """A figure measured anew is in the README only once `python -m benchmarks.summary --markdown` was run."""
    text = README.read_text()
    block = text[text.index("<!-- results:summary -->") : text.index("<!-- /results:summary -->")]
    assert block.partition("\n")[2].strip() == summary.summary(RESULTS)


def found_by_fidelity(r: float, ceiling: float | None, network: float) -> dict[str, Any]:
    """A protein as benchmarks.fidelity writes it, as far as the summary reads."""
    return {
        "residues": 30,
        "frames": 20,
        "lag_ps": [],
        "model": {"valid": 0.985, "rmsf_correlation": r, "rmsf_amplitude": 0.5, "seeds": [{"valid": 0.98}]},
        "second": None if ceiling is None else {"rmsf_correlation": ceiling},
        "networks": {"A": network, "B": 0.99},
        "floor": "A",
    }


def test_summary_names_proteins_where_the_network_is_as_good(tmp_path):
    content = {"settings": {"weights": "w", "stride": 10.0}}
    content["proteins"] = {"good": found_by_fidelity(0.9, 0.95, 0.7), "bad": found_by_fidelity(0.6, 0.85, 0.62)}
    (tmp_path / "fidelity.json").write_text(json.dumps(content))
    errors = [
        {"protein": name, "stride": 10.0, "tau": tau, "rmse": rmse, "last_frame": 2.0}
        for name, tau, rmse in (("good", 0.1, 9.0), ("good", 0.6, 1.0), ("bad", 0.1, 9.0), ("bad", 0.6, 7.0))
    ]
    linear = [{"protein": name, "stride": 10.0, "rmse": 1.5} for name in ("good", "bad")]
    band = {"reversion_md": 0.25, "reversion_model": 0.5, "spread": 0.2, "needed": 0.8}
    reversion = [{"stride": 10.0, "bands": {"all": band, "PC 1-3": band | {"spread": x}}} for x in (0.1, 0.3)]
    groups = {summary.HELD_OUT: {"errors": errors, "linear": linear, "reversion": reversion}}
    (tmp_path / "denoising.json").write_text(json.dumps({"strides": [10.0, 100.0], "groups": groups}))
    text = summary.summary(tmp_path)
    assert "| good | 30 | 200 | 98.5 | 0.90 | 0.95 | 0.70 | 0.50 |" in text
    assert "| **mean** |  |  |  | **0.75** | **0.90** | **0.66** |" in text
    assert "its r is 0.09 above the elastic network's, no higher on bad." in text
    # at the highest noise alone, root of the mean of squares
    assert "RMSE 5.00 Å; the last frame repeated 2.00 Å, a linear predictor 1.50 Å." in text
    assert (
        "(2 proteins) go 50 % of the way back to the start structure, MD 25 %" in text
        and "have 0.25 of the spread" in text
    )
    assert text.count("The next frame") == 1 and "Speed" not in text
    del content["proteins"]["bad"]["floor"]
    (tmp_path / "fidelity.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="first edition"):
        summary.summary(tmp_path)


def test_traces_of_the_picture_are_seen_where_a_molecule_is_widest():
    assert picture.evenly(40, 10).tolist() == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
    assert picture.evenly(13, 10)[-1] == 12
    points = np.diag([1.0, 9.0, 4.0]) @ np.random.default_rng(0).normal(size=(3, 500))
    assert np.allclose(np.abs(picture.plane_of(points.T)), [[0, 1, 0], [0, 0, 1]], atol=0.1)


def test_markdown_goes_into_the_page_of_results_unless_a_file_is_named():
    parser = argparse.ArgumentParser()
    add_markdown_option(parser, "x")
    assert [parser.parse_args(words).markdown for words in ([], ["--markdown"], ["--markdown", "a.md"])] == [
        None,
        RESULTS_PAGE,
        Path("a.md"),
    ]


def test_picture_is_small():
    assert PICTURE.read_bytes()[:4] == b"\x89PNG" and PICTURE.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.skipif(not (BUNDLED / DEFAULT_WEIGHTS / "config.json").exists(), reason="no bundled weights")
def test_first_snippet_prints_what_readme_says(tmp_path):
    shutil.copy(VILLIN, tmp_path / "protein.pdb")
    code, printed = snippets(README, "python")[0], snippets(README, "")[0]
    (tmp_path / "run.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "run.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == printed
    trajectory = mdtraj.load(str(tmp_path / "trajectory.dcd"), top=str(tmp_path / "topology.pdb"))
    assert trajectory.n_frames == 20 and trajectory.n_residues == 35


@pytest.mark.slow
@pytest.mark.skipif(not (BUNDLED / DEFAULT_WEIGHTS / "config.json").exists(), reason="no bundled weights")
def test_second_snippet_runs_after_the_first(tmp_path):
    """In one session, with a protein and strides short enough for a test."""
    complete_fragment(tmp_path / "protein.pdb", 12)
    code = "".join(snippets(README, "python"))
    # ten times shorter strides, fewer frames: what is done stays the same
    for long, short in (
        ("stride=10 *", "stride=1 *"),
        ("step(20)", "step(2)"),
        ("step(10)", "step(2)"),
        ("validate(2 *", "validate(0.2 *"),
        ("cycles=2, surrogate=20", "cycles=1, surrogate=2"),
    ):
        assert code.count(long) == 1, long
        code = code.replace(long, short)
    (tmp_path / "run.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "run.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "12 residues" in result.stdout and re.search(r"verdict: (PASS|STRAINED|BROKEN)", result.stdout)
    assert (tmp_path / "hybrid.jsonl").exists() and (tmp_path / "hybrid.dcd").stat().st_size > 0
