"""How work runs: DVC's graph as a Prefect flow, worktrees, the closing table, the UIs.

``tasks`` knows nothing of this.
"""

import os

from tasks.core.privacy import silence

# The only work done at import, as in ``tasks``: it must come before Prefect, MLflow or DVC is
# imported.
silence()
# git tells its hooks and aliases where they are. Each git that they start works there, whatever
# folder it is given: a run would detach the user's branch and empty the index.
for _name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX"):
    os.environ.pop(_name, None)
