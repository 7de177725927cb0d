"""Measures on arrays and trajectories. Reads these with mdtraj; never the network, torch or OpenMM."""
