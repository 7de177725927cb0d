"""What the scale of the sampler's noise does: amplitude and validity at several scales, and the scale that fits MD.

    python -m benchmarks.noise_scale                                    # bundled weights
    python -m benchmarks.noise_scale --weights v1 --scales 1 1.4 1.8    # another weights directory

Runs ``fidelity.py`` on proteins trained on, against replicas that were not, with the same weights at each scale. The
released scale is where RMSD at a lag of one stride is MD's on average.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.lib.paths import RESULTS, ROOT
from benchmarks.lib.results_page import write_json
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, find_weights


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.3])
    parser.add_argument("--proteins", nargs="+", default=["1vii_A:2", "5a7u_A:2", "villin:2"], metavar="NAME:REPLICA")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--json", type=Path, default=RESULTS / "noise_scale.json")
    arguments = parser.parse_args()
    source = find_weights(arguments.weights).parent
    content = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    print(
        "| weights | noise scale | RMSD at 10 ps, of MD's | RMSF amplitude | RMSF r | valid % |\n"
        "|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for scale in arguments.scales:
            folder = Path(scratch) / f"{scale:g}"
            shutil.copytree(source, folder)
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"noise_scale": scale}))
            output = folder / "fidelity.json"
            words = ["--training", *arguments.proteins, "--weights", str(folder), "--frames", str(arguments.frames)]
            command = [sys.executable, "-m", "benchmarks.fidelity", *words, "--json", str(output)]
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            models = {name: r["model"] for name, r in json.loads(output.read_text())["proteins"].items()}
            row = {
                "rmsd_at_one_stride": float(np.mean([m["lag_ratios"][0] for m in models.values()])),
                "rmsf_amplitude": {name: m["rmsf_amplitude"] for name, m in models.items()},
                "rmsf_correlation": {name: m["rmsf_correlation"] for name, m in models.items()},
                "valid": float(np.mean([m["valid"] for m in models.values()])),
            }
            content[f"{config['name']} {scale:g}"] = row
            amplitude, r = (
                ", ".join(f"{x:.2f}" for x in row[k].values()) for k in ("rmsf_amplitude", "rmsf_correlation")
            )
            print(
                f"| {config['name']} | {scale:g} | {row['rmsd_at_one_stride']:.2f} | {amplitude} | {r} "
                f"| {100 * row['valid']:.1f} |",
                flush=True,
            )
            write_json(arguments.json, content)


if __name__ == "__main__":
    main()
