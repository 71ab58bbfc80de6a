"""What the work is: one module a stage, and the few modules they share.

Knows nothing of Prefect or DVC.
"""

from tasks.core.log_lines import quiet_libraries
from tasks.core.privacy import silence
from tasks.core.process import die_early

# Done at import: it has to come before any library that would phone home is imported, and before
# the seconds that importing one takes.
silence()
die_early()
quiet_libraries()
