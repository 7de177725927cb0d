"""Warnings of the package. What a user got wrong is a ValueError."""


class StarMDWarning(UserWarning):
    """Something runs, but means less than it seems to: no energies here, an input unlike the training set."""
