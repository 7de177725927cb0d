"""An evaluation as one HTML file that needs no network: table, plots, a 3D view of the superposed frames.

The page is ``report.html.jinja``; the script of the view, ``viewer.js``, is written into it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from openmm_starmd.evaluation import plots
from openmm_starmd.evaluation.evaluate import Evaluation
from openmm_starmd.evaluation.viewer import traces
from openmm_starmd.files.writing import write_text


class Section(NamedTuple):
    """A plot with its heading and what there is to know about it."""

    heading: str
    plot: Callable[[Evaluation], Any]
    caption: str


SECTIONS = (
    Section(
        "Free energy in the reference's principal components",
        plots.free_energy,
        "-ln p in kT, each run's minimum at 0; white is never visited; the cross is the first frame.",
    ),
    Section(
        "Flexibility and memory",
        plots.profiles,
        "Dashed: floors (a frozen structure, elastic networks scaled to the reference's own amplitude; which of these "
        "fits best is known with hindsight only). Under 10 frames an RMSF is mostly noise.",
    ),
    Section("Validity over time", plots.validity, "All frames of each run, in blocks."),
    Section(
        "Drift and kinetics",
        plots.structure_and_kinetics,
        "Implied timescales of Markov models on states of the reference; what lies in grey is not resolved.",
    ),
    Section("Contacts", plots.contacts, "Above the diagonal the reference, below the run. Cα within 8 Å."),
)


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
        If jinja2 or matplotlib is missing.
    """
    write_text(path, render(evaluation, title))
    return Path(path)


def render(evaluation: Evaluation, title: str = "Evaluation") -> str:
    """The page as text."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError("the report needs jinja2: pip install 'openmm_starmd[analysis]'") from error

    sections = []
    for section in SECTIONS:
        figure = section.plot(evaluation)
        if figure is not None:
            image = plots.as_data_uri(figure)
            sections.append({"heading": section.heading, "image": image, "caption": section.caption})
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(_text("report.html.jinja")).render(
        title=title,
        evaluation=evaluation,
        sections=sections,
        # neither holds what could close its script element
        traces=Markup(traces(evaluation)),
        script=Markup(_text("viewer.js")),
    )


def _text(name: str) -> str:
    """A file that comes with this package."""
    return files("openmm_starmd.evaluation").joinpath(name).read_text(encoding="utf-8")
