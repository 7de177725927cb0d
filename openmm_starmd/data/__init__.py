"""Trajectories on disk, windows of frames for training, and making MD data with OpenMM."""
