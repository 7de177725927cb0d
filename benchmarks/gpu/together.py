"""Stage: MD of many proteins in one Context, the way a GPU makes it: ``make-data --together`` for so many seconds.

Models with hydrogens, minimised, come with the bundle, so that none of the time goes into preparing; what lacks one is
prepared first, by so many `workers`. A second call on the same machine goes on with what the first one left.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import MEBI, files_of, pack
from benchmarks.gpu.stage import made_here, read_arguments
from benchmarks.lib.results_page import write_json

ARCHIVE = 14 * MEBI  # a little under the 15 of a file
ENDINGS = (".pdb", ".xtc", ".json", ".state.xml.gz")
ORDER, RESULT = "together_order.json", "together.json"


def collect(work: Path, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Pack the MD there is, in the order in which it is wanted."""
    tree = made_here(work)
    order = work / ORDER
    names = json.loads(order.read_text())["order"] if order.exists() else []
    groups = []
    for name in names:
        files = [*files_of(tree / name, ENDINGS), *files_of(tree / "fine" / name, ENDINGS)]
        if any(path.suffix == ".xtc" for path in files):
            groups.append((name, [(path, str(path.relative_to(tree))) for path in files]))
    left_out = pack(groups, output, "md", options.get("archives", 4), ARCHIVE)
    result = work / RESULT
    made = json.loads(result.read_text()) if result.exists() else {}
    return {"proteins": len(groups) - len(left_out), "left_out": left_out} | made


def main() -> None:
    """Run them all until the time is up."""
    given = read_arguments(
        __doc__ or "",
        proteins=[],
        duration=5000.0,
        interval=5.0,
        fine=20.0,
        cutoff=3.0,
        archives=4,
        per_context=None,
        protocol={},
        workers=1,
    )
    options = given.options
    wanted = options["proteins"] or json.loads((given.bundle / "list.json").read_text())["proteins"]
    inputs = [given.bundle / "structures" / f"{name}.pdb" for name in wanted]
    missing = [path.name for path in inputs if not path.is_file()]
    if missing:
        raise SystemExit(f"the bundle has no {', '.join(missing)}")
    tree = made_here(given.work)
    for name in wanted:
        if not (tree / name).exists() and (given.bundle / "models" / name).is_dir():
            shutil.copytree(given.bundle / "models" / name, tree / name)
    write_json(given.work / ORDER, {"order": wanted})

    from openmm_starmd.classical.replicas import Protocol
    from openmm_starmd.classical.together import make_data_together

    began = time.monotonic()
    failed = make_data_together(
        inputs,
        tree,
        options["duration"],
        seconds=max(1.0, given.left - 12.0),  # building the system comes before, the last frames' writing after
        interval=options["interval"],
        fine=options["fine"],
        cutoff=options["cutoff"],
        platform=given.platform,
        workers=options["workers"],
        per_context=options["per_context"],
        protocol=Protocol(**options["protocol"]),
        report=lambda line: print(line, flush=True),
    )
    spent = time.monotonic() - began
    made = {name: frames * options["interval"] for name, frames in frames_of(tree, wanted).items()}
    result = {
        "seconds": spent,
        "picoseconds": made,
        "ns_in_all": sum(made.values()) / 1000,
        "ns_per_day_in_all": sum(made.values()) / 1000 / spent * 86400,
        "failed": failed,
        "settings": options,
    }
    write_json(given.work / RESULT, result)
    print(json.dumps(result, indent=1))
    if len(failed) == len(wanted):
        raise SystemExit("every protein failed")


def frames_of(tree: Path, names: list[str]) -> dict[str, int]:
    """Frames of the first replica of each protein."""
    import mdtraj

    found = {}
    for name in names:
        path = tree / name / f"{name}_prod_R1_fit.xtc"
        if path.exists():
            with mdtraj.formats.XTCTrajectoryFile(str(path)) as file:
                found[name] = len(file)
    return found


if __name__ == "__main__":
    main()
