"""The package as a whole: version, light imports, the command's help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import openmm_starmd
from openmm_starmd.model.weights import BUNDLED, DEFAULT_WEIGHTS


def python(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


def test_version():
    assert openmm_starmd.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = openmm_starmd.nonsense


def test_public_names():
    assert set(dir(openmm_starmd)) == set(openmm_starmd.__all__)
    for name in openmm_starmd.__all__:
        assert getattr(openmm_starmd, name) is not None


def test_bare_import_pulls_nothing_heavy():
    heavy = python(
        "import sys, openmm_starmd; print([m for m in ('torch', 'openmm', 'mdtraj', 'matplotlib') if m in sys.modules])"
    )
    assert heavy == "[]"


def test_core_needs_neither_lightning_nor_matplotlib():
    found = python(
        "import sys; from openmm_starmd import StarMDSimulation, StarMDIntegrator, Protein, StarMDWarning; "
        "import openmm_starmd.running, openmm_starmd.cli; "
        "print([m for m in ('lightning', 'matplotlib', 'pytorch_lightning') if m in sys.modules])"
    )
    assert found == "[]"


@pytest.mark.parametrize("command", [[], ["run"], ["make-data"], ["plot"]])
def test_help(command):
    result = subprocess.run(
        [sys.executable, "-m", "openmm_starmd.cli", *command, "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (BUNDLED / DEFAULT_WEIGHTS / "config.json").exists(), reason="no bundled weights yet")
def test_example(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "run_protein.py"
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=os.environ | {"FRAMES": "10"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"topology.pdb", "trajectory.dcd", "run.chk"}
    assert "100.0%" in result.stdout
