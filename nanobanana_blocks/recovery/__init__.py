"""What was paid for and has not landed, or is not in storage any more."""

from nanobanana_blocks.recovery.outstanding import OutstandingTasks, open_outstanding
from nanobanana_blocks.recovery.pending import PendingTask, PendingTasks, open_pending

__all__ = [
    "OutstandingTasks",
    "PendingTask",
    "PendingTasks",
    "open_outstanding",
    "open_pending",
]
