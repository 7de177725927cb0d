"""Measurements of openmm_starmd and of its weights; from the repository root: ``python -m benchmarks.NAME``."""
