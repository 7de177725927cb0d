"""An evaluation as one HTML file that needs no network: table, plots, a 3D view of the superposed frames."""

from __future__ import annotations

import html
import os
from pathlib import Path

import numpy as np

from openmm_starmd.evaluation import plots as report_plots
from openmm_starmd.evaluation import viewer
from openmm_starmd.evaluation.evaluate import COLUMNS, Evaluation, show
from openmm_starmd.evaluation.metrics import NAN

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ccc; }
img { max-width: 100%; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } th, td { padding: 3px 8px; text-align: right; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } tr.reference { background: #fdf1e7; }
tr.replica { background: #fdf8ec; } tr.generated { background: #e8f2f9; }
td:first-child, th:first-child { text-align: left; white-space: nowrap; }
ul.notes { font-size: 13px; color: #444; } p.caption { font-size: 13px; color: #444; margin-top: 0; }
canvas { width: 100%; max-width: 900px; border: 1px solid #ccc; touch-action: none; cursor: grab; }
.controls label { margin-right: 1.2em; }
"""

# Nothing may be loaded: a page that asks for more than itself shows an error instead.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(evaluation: Evaluation, path: str | os.PathLike[str], title: str = "Evaluation") -> Path:
    """Write the report.

    Parameters
    ----------
    evaluation : Evaluation
    path : path
        HTML file to write; an older one is replaced in one move.
    title : str

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{path.name}")
    temporary.write_text(render(evaluation, title), encoding="utf-8")
    os.replace(temporary, path)
    return path


def render(evaluation: Evaluation, title: str = "Evaluation") -> str:
    """The page as text."""
    match = evaluation.match
    sections = [
        (
            "Free energy in the reference's principal components",
            report_plots.free_energy,
            "-ln p in kT, each run's minimum at 0; white is never visited; the cross is the first frame.",
        ),
        (
            "Flexibility and memory",
            report_plots.profiles,
            "Dashed: floors (a frozen structure, an elastic network scaled to the reference's own amplitude).",
        ),
        ("Validity over time", report_plots.validity, "All frames of each run, in blocks."),
        (
            "Drift and kinetics",
            report_plots.structure_and_kinetics,
            "Implied timescales of Markov models on states of the reference; what lies in grey is not resolved.",
        ),
        ("Contacts", report_plots.contacts, "Above the diagonal the reference, below the run. Cα within 8 Å."),
    ]
    parts = []
    for heading, plot, caption in sections:
        figure = plot(evaluation)
        if figure is not None:
            parts.append(
                f'<h2>{html.escape(heading)}</h2>\n<img alt="{html.escape(heading)}" '
                f'src="{report_plots.as_data_uri(figure)}">\n<p class="caption">{html.escape(caption)}</p>'
            )
    notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in evaluation.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p>{len(evaluation.residues)} residues; {match.frames} frames of {match.stride:g} ps of each run are compared.</p>
<div class="wide">{_table(evaluation)}</div>
<ul class="notes">
{notes}
</ul>
<h2>Superposed frames</h2>
{viewer.MARKUP}
<p class="caption">Cα traces on the reference's first frame; up to 24 frames of each run, evenly spread. Drag to turn,
wheel to zoom.</p>
{"".join(parts)}
<script type="application/json" id="traces">{viewer.traces(evaluation)}</script>
<script>{viewer.SCRIPT}</script>
</body>
</html>
"""


def _table(evaluation: Evaluation) -> str:
    """The table of figures as HTML."""
    columns = [c for c in COLUMNS if any(np.isfinite(r.figures.get(c[0], NAN)) for r in evaluation.rows)]
    head = "".join(f"<th>{html.escape(c[1])}</th>" for c in columns)
    lines = [f"<table>\n<tr><th>run</th><th>kind</th>{head}</tr>"]
    for row in evaluation.rows:
        cells = "".join(f"<td>{show(row.figures.get(k, NAN), scale, digits)}</td>" for k, _, scale, digits in columns)
        lines.append(f'<tr class="{row.kind}"><td>{html.escape(row.label)}</td><td>{row.kind}</td>{cells}</tr>')
    return "\n".join([*lines, "</table>"])
