"""Where the benchmarks read from and write to."""

from __future__ import annotations

from pathlib import Path

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parent
DATA = BENCHMARKS / "data"
RESULTS = BENCHMARKS / "results"
# the page of result tables; a script fills the block that bears its name
RESULTS_PAGE = ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "picture.png"
