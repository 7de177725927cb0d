"""Weights on the Hugging Face hub: found by name, kept in its cache, never a pickle among them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

PREFIX = "hf:"
# all that is ever downloaded
FILES = ("model.safetensors", "config.json", "training_data.json")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_name(weights: str | os.PathLike[str]) -> bool:
    """Whether `weights` names a repository of the hub.

    Parameters
    ----------
    weights : str or path
        ``"hf:org/name"``, or ``"org/name"`` that is no local path, either with ``@revision`` behind it. A path object
        never is.

    Returns
    -------
    bool
    """
    if not isinstance(weights, str):
        return False
    if weights.startswith(PREFIX):
        return True
    return _NAME.fullmatch(weights) is not None and not Path(weights).exists()


def fetch(weights: str) -> Path:
    """Bring weights from the hub into its cache, if they are not there yet.

    Parameters
    ----------
    weights : str
        ``"hf:org/name"`` or ``"org/name"``, either with ``@revision`` (branch, tag or commit) behind it.

    Returns
    -------
    Path
        Directory with ``model.safetensors`` and ``config.json``. Without a network it is the copy in the cache.

    Raises
    ------
    ImportError
        If huggingface_hub is not installed; names the extra.
    ValueError
        If there are no such weights, or they are not in the cache and the hub cannot be reached; says where it looked.
    """
    name, _, revision = weights.removeprefix(PREFIX).partition("@")
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{weights!r} is no name of the Hugging Face hub: give hf:ORGANISATION/NAME, or a directory")
    hub = _huggingface_hub(weights)
    cache = Path(hub.constants.HF_HUB_CACHE)
    try:
        folder = Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:
        raise ValueError(_explain(weights, name, revision, cache, error, hub)) from error
    missing = [file for file in FILES[:2] if not (folder / file).exists()]
    if missing:
        raise ValueError(
            f"{_page(hub, name)} has no {' and no '.join(missing)} (looked in {folder}): it does not hold weights of "
            "openmm_starmd, or its copy in the cache is incomplete and the network is away"
        )
    return folder


def _huggingface_hub(weights: str) -> Any:
    """The module huggingface_hub, or an error that names the extra."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            f"there is no directory {weights!r}, and weights are loaded from the Hugging Face hub through "
            "huggingface_hub, which is not installed: pip install 'openmm_starmd[hub]'"
        ) from error
    return huggingface_hub


def _page(hub: Any, name: str) -> str:
    return f"{hub.constants.ENDPOINT}/{name}"


def _explain(weights: str, name: str, revision: str, cache: Path, error: Exception, hub: Any) -> str:
    """One paragraph: where the weights were looked for, what came of it, what to do."""
    copy = cache / f"models--{name.replace('/', '--')}"
    at = f" at revision {revision!r}" if revision else ""
    looked = f"no local directory {name!r}, no copy{at} in the cache {copy}"
    reason = " ".join(str(error.__cause__ or error).split())[:300]
    errors = hub.errors
    if isinstance(error, errors.GatedRepoError):
        found = f"{_page(hub, name)} asks for a licence to be accepted or a login"
        do = "open that page, accept, and log in with `hf auth login`"
    elif isinstance(error, errors.RevisionNotFoundError):
        found, do = f"{_page(hub, name)} has no such revision", "give a branch, tag or commit that it lists"
    elif isinstance(error, errors.RepositoryNotFoundError):
        found = f"{_page(hub, name)} does not exist, or is private and this machine is not logged in to it"
        do = "check the name, or log in with `hf auth login`"
    else:
        offline = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else reason
        found = f"the hub ({hub.constants.ENDPOINT}) could not be reached ({offline})"
        do = (
            "load them once with a network (they stay in the cache), or copy model.safetensors and config.json of "
            f"{_page(hub, name)} here and give their directory; HF_HOME moves the cache"
        )
    return f"no weights {weights!r}: {looked}, and {found}. To go on, {do}."
