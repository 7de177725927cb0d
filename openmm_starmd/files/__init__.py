"""Files: written whole, cut back, read."""
