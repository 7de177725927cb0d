"""Classical MD in between learned frames: the all-atom model, segments, policies."""
