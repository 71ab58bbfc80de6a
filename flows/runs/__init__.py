"""One run of DVC's graph without Prefect: its worktree, its stages, its closing table."""

from pathlib import Path

#: The checkout whose code this is: ``flows`` and ``tasks`` are imported from it.
CODE = Path(__file__).resolve().parents[2]
