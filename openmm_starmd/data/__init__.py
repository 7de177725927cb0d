"""Trajectories on disk, and windows of frames for training. No OpenMM."""
