"""How work runs: DVC's graph as a Prefect flow, worktrees for runs of their own, the closing table,
the UIs. ``tasks`` knows nothing of this.
"""

from tasks.core.privacy import silence

# The one thing done at import, as in ``tasks``: it has to come before Prefect, MLflow or DVC is
# imported.
silence()
