"""Classical MD in between learned frames: segments, and alternation of the two."""
