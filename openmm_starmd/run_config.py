"""What decides the frames of a run, as asked for and as it stands in the run's ``config.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

DEFAULT_SEED = 0
FORMATS = ("dcd", "xtc")


@dataclass(frozen=True)
class Settings:
    """What decides the frames of a run. None stands for the default, or on resume for what the run has.

    Attributes
    ----------
    stride : float or None
        ps.
    seed : int or None
    atoms : str or None
        ``"ca"``, ``"backbone"`` or ``"heavy"``.
    weights : str or None
        Bundled name, or path.
    steps : int or None
        Denoising steps per frame.
    format : str or None
        ``"dcd"`` or ``"xtc"``.
    """

    stride: float | None = None
    seed: int | None = None
    atoms: str | None = None
    weights: str | None = None
    steps: int | None = None
    format: str | None = None


def read_config(path: Path) -> dict[str, Any]:
    """Configuration of a run on disk.

    Parameters
    ----------
    path : Path
        A ``config.json``.

    Returns
    -------
    dict
        The fields of :class:`Settings`, ``sha256`` of the input, and more for the reader's information.

    Raises
    ------
    ValueError
        If it is no such file.
    """
    try:
        config = json.loads(path.read_text())
        missing = ({f.name for f in fields(Settings)} | {"sha256"}) - set(config)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not the configuration of a run: {error}") from error
    if missing:
        raise ValueError(f"{path} is not the configuration of a run: it lacks {', '.join(sorted(missing))}")
    return config


def merge(settings: Settings, digest: str, config: dict[str, Any], path: Path) -> Settings:
    """Settings of the run on disk, if what was asked for does not contradict them.

    Parameters
    ----------
    settings : Settings
        As asked for; None agrees with anything.
    digest : str
        SHA-256 of the input.
    config : dict
        From :func:`read_config`.
    path : Path
        Where it lies.

    Returns
    -------
    Settings

    Raises
    ------
    ValueError
        If something differs; names all of it.
    """
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    changed = [
        f"{name} is {'the default' if config[name] is None else config[name]}, not {value}"
        for name, value in given.items()
        if config[name] != value
    ]
    if config["sha256"] != digest:
        changed.insert(0, f"it was begun from {config.get('input')}, and this input has other contents")
    if changed:
        raise ValueError(
            f"cannot resume the run in {path.parent}: {'; '.join(changed)}. Leave these options out, or choose "
            "another --output"
        )
    return Settings(**{f.name: config[f.name] for f in fields(Settings)})
