"""How work runs: DVC's graph as a Prefect flow, worktrees, the closing table, the UIs.

``tasks`` knows nothing of this.
"""

from tasks.core.privacy import silence

# The only work done at import, as in ``tasks``: it must come before Prefect, MLflow or DVC is
# imported.
silence()
