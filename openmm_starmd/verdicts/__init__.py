"""What a force field makes of a frame, and the word on it."""
