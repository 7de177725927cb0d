"""Geometry of residues: names, bonds, rigids, torsions, heavy atoms, superposition. Arrays only."""
