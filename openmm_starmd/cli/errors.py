"""What a user can put right, as one line and exit code 2."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer


@contextmanager
def clean_errors() -> Iterator[None]:
    """Turn what a user can put right into one line and exit code 2, and warnings into one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        except (ValueError, OSError, ImportError) as error:
            _fail(error)


def _fail(error: BaseException) -> NoReturn:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(2) from error
