"""The command ``openmm-starmd``: one module a command. Nothing imports this room."""

from openmm_starmd.cli.app import app

__all__ = ["app"]
