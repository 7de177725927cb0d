"""``python -m openmm_starmd.cli``."""

import sys

from openmm_starmd.cli.app import app

sys.exit(app())
