"""All MD with a force field: the model of classical segments, and replicas for training and comparison."""
