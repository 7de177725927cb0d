"""Measures on arrays come without the heavy packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from openmm_starmd import analysis


def test_analysis_needs_neither_torch_nor_openmm_nor_matplotlib():
    code = (
        "import sys, openmm_starmd.analysis.validity, openmm_starmd.analysis.flexibility, "
        "openmm_starmd.analysis.network_models, openmm_starmd.evaluation.picture\n"
        "print([m for m in ('torch', 'matplotlib', 'lightning') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    # mdtraj itself imports openmm where it can, so for that the sources are read
    for source in Path(analysis.__file__).parent.glob("*.py"):
        assert "import openmm\n" not in source.read_text() and "from openmm import" not in source.read_text()
