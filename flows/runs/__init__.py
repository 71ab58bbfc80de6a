"""One run of DVC's graph without Prefect: its worktree, its stages, its closing table."""
