"""Forward noise on R^3 and SO(3), scores, samplers. Knows no network."""
