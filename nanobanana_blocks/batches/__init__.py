"""From a manifest to generation tasks, each row paid for once; Prefect is not needed."""

from nanobanana_blocks.batches.attempts import AttemptState, Failure, SubmissionAttempt
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.claims import Claims, open_claims
from nanobanana_blocks.batches.leases import Leases, Liveness, open_leases
from nanobanana_blocks.batches.ledger import Ledger, open_ledger
from nanobanana_blocks.batches.manifest import (
    InvalidManifest,
    Manifest,
    Row,
    RowDefaults,
    parse_manifest,
    read_manifest,
)
from nanobanana_blocks.batches.report import BatchReport, RowOutcome
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.batches.submitter import Patience, Submitter
from nanobanana_blocks.batches.waits import Waits

__all__ = [
    "AttemptState",
    "Batch",
    "BatchReport",
    "Claims",
    "Failure",
    "InvalidManifest",
    "Leases",
    "Ledger",
    "Liveness",
    "Manifest",
    "Patience",
    "Row",
    "RowDefaults",
    "RowOutcome",
    "SubmissionAttempt",
    "Submitter",
    "Waits",
    "keeping_report",
    "open_claims",
    "open_leases",
    "open_ledger",
    "parse_manifest",
    "read_manifest",
]
