"""Figures of matplotlib that leave the user's own plots alone, and PNG files of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from openmm_starmd.files.writing import replacing


def blank_figure(purpose: str, width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """An empty figure.

    Parameters
    ----------
    purpose : str
        What it is for, for the error: ``"the picture"``.
    width, height : float
        Inches.
    rows, columns : int
        Of panels.

    Returns
    -------
    figure : matplotlib Figure
    axes : ndarray [rows, columns] of matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{purpose} needs matplotlib: pip install 'openmm_starmd[analysis]'") from error

    # made by hand, because pyplot would take over the backend of the user's program
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_png(figure: Any, path: str | os.PathLike[str], dpi: int) -> Path:
    """Write a figure as a PNG; an older file is replaced in one move."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
    return Path(path)
