"""Results written whole: text, JSON, and blocks between the markers of a Markdown file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.lib.paths import RESULTS_PAGE
from openmm_starmd.files.writing import write_text


def write(path: Path, text: str) -> None:
    """Write a text file whole, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write indented JSON whole, with the folders that it needs; `options` are those of ``json.dumps``."""
    write(path, json.dumps(content, indent=1, **options) + "\n")


def add_markdown_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a script `--markdown [FILE]`: where its table goes, docs/results.md if no file is named."""
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=RESULTS_PAGE,
        help=f"file whose block results:{name} is to hold the table; docs/results.md if none is named",
    )


def write_block(path: Path, name: str, text: str) -> None:
    """Put text between the markers ``results:name`` of a Markdown file; at its end where it has none."""
    begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    content = path.read_text() if path.exists() else ""
    block = f"{begin}\n\n{text.strip()}\n\n{end}"
    if end in content:
        # a bare marker may stand before the block: what lies between the two is not the block's
        start = content.rindex(begin, 0, content.index(end))
        content = content[:start] + block + content[content.index(end) + len(end) :]
    elif begin in content:
        content = content.replace(begin, block, 1)
    else:
        content = f"{content.rstrip()}\n\n{block}\n".lstrip()
    write(path, content)
