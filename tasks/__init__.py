"""What the work is: one package a stage, and the few packages they share.

Knows nothing of Prefect or DVC.
"""

from tasks.core.log_lines import quiet_libraries
from tasks.core.privacy import silence
from tasks.core.process import die_early
from tasks.core.secrets import take_passwords_out_of_addresses

# Done at import: it must come before any library with telemetry is imported, and before the seconds
# that such an import takes.
silence()
take_passwords_out_of_addresses()
die_early()
quiet_libraries()
