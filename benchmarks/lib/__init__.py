"""What the benchmarks share: drawing of rollouts, figures, tables, pages of results."""
