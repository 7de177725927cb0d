"""What the 3D view of a report (``viewer.js``, plain JavaScript on a canvas) shows: Cα traces of each run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from openmm_starmd.evaluation.evaluate import Evaluation
from openmm_starmd.evaluation.plots import colors
from openmm_starmd.geometry.superposition import superpose


def traces(evaluation: Evaluation) -> str:
    """JSON of the snapshots of each run, superposed on the reference's first frame; whole hundredths of an Å."""
    reference = evaluation.rows[0].curves["snapshots"][0].astype(np.float64)
    center = reference.mean(0)
    runs: list[dict[str, Any]] = []
    for row, color in zip(evaluation.rows, colors(evaluation.rows), strict=True):
        if "snapshots" not in row.curves:
            continue
        frames = superpose(row.curves["snapshots"], reference) - center
        whole = np.round(1000 * frames).astype(int).reshape(len(frames), -1)
        runs.append({"label": row.label, "color": color, "shown": row.kind != "floor", "frames": whole.tolist()})
    text = json.dumps({"bonded": [int(b) for b in evaluation.bonded], "runs": runs}, separators=(",", ":"))
    # a label must not be able to close the script element
    return text.replace("</", "<\\/")
