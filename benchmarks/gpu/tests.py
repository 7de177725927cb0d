"""Stage: the tests that need a CUDA device. Each result is printed as it comes, the slowest named last."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.gpu.stage import read_arguments
from benchmarks.lib.paths import ROOT


def test_files() -> list[str]:
    """Files with a test that is marked so; collecting all the others would take half of the time."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "pytest.mark.cuda" in path.read_text()]


def main() -> None:
    """Run them; ends with pytest's code, a GPU without such tests being a failure."""
    given = read_arguments(__doc__ or "", files=[])
    files = given.options["files"] or test_files()
    command = [sys.executable, "-m", "pytest", "-v", "-m", "cuda", "-p", "no:cacheprovider", "--durations=10", "-rA"]
    command += ["--tb=short", "--continue-on-collection-errors", *files]
    outcome = subprocess.run(command, cwd=ROOT, check=False)
    sys.exit(outcome.returncode)


if __name__ == "__main__":
    main()
