"""From a generation task to its images and receipt in storage.

What fetches is imported from `landing.lander`, so that values cost no HTTP client and no decoder.
"""

from nanobanana_blocks.landing.naming import receipt_name
from nanobanana_blocks.landing.provenance import Provenance, Reference
from nanobanana_blocks.landing.receipt import LandedImage, Receipt, ReceiptImage, read_receipt
from nanobanana_blocks.landing.report import (
    ErrorSummary,
    LandingOutcome,
    LandingReport,
    LandingStatus,
)

__all__ = [
    "ErrorSummary",
    "LandedImage",
    "LandingOutcome",
    "LandingReport",
    "LandingStatus",
    "Provenance",
    "Receipt",
    "ReceiptImage",
    "Reference",
    "read_receipt",
    "receipt_name",
]
