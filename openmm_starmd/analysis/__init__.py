"""Figures and pictures from trajectories. Reads trajectories with mdtraj; never the network, torch or OpenMM."""
