"""A run, a batch, a leaderboard: the notebooks run by papermill."""
