"""How far off the amplitude is that a short calibration finds, and whether its stated error is as large.

    python -m benchmarks.derive.calibration_error --data ../shared/data/md200 benchmarks/data benchmarks/data/training

On trajectories of the training pool of 80 ps or more: the amplitude by the first 5, 10 and 20 ps, beside that of all
that comes after 20 ps at a stride of 10 ps. ``COORDINATES`` of openmm_starmd/model/calibration.py was chosen by it, so
that errors are as large as stated; no held-out protein has a part in it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import write_json
from benchmarks.reference_augmentation import SPLIT, not_trained_on
from openmm_starmd.data.folders import open_data
from openmm_starmd.model import calibration
from openmm_starmd.model.calibration import find_amplitude
from openmm_starmd.model.elastic_settings import ElasticSettings

LENGTHS = (5.0, 10.0, 20.0)  # ps
LEAST = 80.0  # ps


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--json", type=Path, default=RESULTS / "calibration_error.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    settings, rows = ElasticSettings(), []
    for protein in open_data(arguments.data, not_trained_on(json.loads(SPLIT.read_text()))):
        for replica in protein.replicas:
            if len(replica) * replica.interval < LEAST:
                continue
            frames, features = replica.rigids(np.arange(len(replica))), protein.read_features()
            rest = frames.map(lambda x: x[round(max(LENGTHS) / replica.interval) :])  # noqa: B023
            with mock.patch.multiple(calibration, STRIDES=(10.0,), COORDINATES=1e4):
                truth = find_amplitude(rest, replica.interval, features, settings, max_context=7).log
            row = {"protein": protein.name, "picoseconds": len(replica) * replica.interval, "truth": truth}
            for length in LENGTHS:
                short = frames.map(lambda x: x[: round(length / replica.interval)])  # noqa: B023
                found = find_amplitude(short, replica.interval, features, settings, max_context=7)
                row |= {f"{length:g} ps": found.log, f"error {length:g} ps": found.error}
            rows.append(row)
            print(json.dumps(row), flush=True)
    truth = np.array([row["truth"] for row in rows])
    summary = {"trajectories": len(rows), "without": float(np.sqrt((truth**2).mean()))}
    for length in LENGTHS:
        off = np.array([row[f"{length:g} ps"] for row in rows]) - truth
        stated = np.array([row[f"error {length:g} ps"] for row in rows])
        summary[f"{length:g} ps"] = {
            "rms": float(np.sqrt((off**2).mean())),
            "bias": float(off.mean()),
            "over stated": float(np.sqrt(((off / stated) ** 2).mean())),
        }
    write_json(arguments.json, {"summary": summary, "trajectories": rows})
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
