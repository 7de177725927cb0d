"""Generated trajectories judged against MD: figures, tables, reports."""
