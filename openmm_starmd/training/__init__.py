"""Losses, the Lightning module and the recipe."""
