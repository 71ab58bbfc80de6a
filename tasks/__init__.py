"""What the work is: one package a stage, and the few packages they share.

Knows nothing of Prefect or DVC.
"""

from tasks.core.log_lines import quiet_libraries
from tasks.core.privacy import silence
from tasks.core.process import die_early

# Done at import: it must come before any library with telemetry is imported, and before the seconds
# that such an import takes.
silence()
die_early()
quiet_libraries()
