"""The paper's own table (second-hand), for the side of ours; nothing in it is measured here."""

from __future__ import annotations

from collections.abc import Sequence

SETTING = "100 ns, 82 test proteins, 80 frames 1.2 ns apart"
COLUMNS = (
    "JSD",
    "recall",
    "tICA",
    "RMSD err.",
    "autocorr. err.",
    "VAMP-2 gap",
    "valid Cα %",
    "valid Cα + all-atom %",
)
ROWS = {
    "second MD replica": (0.31, 0.67, 0.17, None, None, None, None, 96.4),
    "STAR-MD": (0.43, 0.54, 0.17, 0.07, 0.02, 0.10, 86.8, 85.3),
    "ConfRover": (0.52, 0.36, 0.15, 0.20, 0.08, None, None, 52.1),
    "MDGen": (0.56, 0.28, 0.12, None, None, None, None, 68.3),
    "AlphaFolding": (None, 0.01, 0.17, None, None, None, None, 0.11),
}


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paper_table() -> str:
    """The paper's table, marked as the paper's."""

    def show(value: float | None, heading: str) -> str:
        if value is None:
            return "-"
        return f"{value:g}" if "%" in heading else f"{value:.2f}"

    rows = [[label, *map(show, values, COLUMNS)] for label, values in ROWS.items()]
    return (
        f"**The paper's own table, not measured here and not comparable with the above**: {SETTING}, the paper's "
        "weights and reference MD; the dimensions of its histogram and its lags are not known. - is unknown.\n\n"
        + markdown(["paper", *COLUMNS], rows)
    )
