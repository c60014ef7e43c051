"""How the job keys of batches are told from those of others."""

from __future__ import annotations

BATCH_JOB_PREFIX = "batch-"
"""How the job keys of batches begin, whose own runs land what their callbacks are about."""
