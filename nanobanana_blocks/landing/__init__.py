"""From a generation task to its images and receipt in storage."""

from nanobanana_blocks.landing.folder import LandingFolder
from nanobanana_blocks.landing.lander import Lander, Placement, not_attempted, open_lander
from nanobanana_blocks.landing.naming import receipt_name
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
    "Lander",
    "LandingFolder",
    "LandingOutcome",
    "LandingReport",
    "LandingStatus",
    "Placement",
    "Receipt",
    "ReceiptImage",
    "not_attempted",
    "open_lander",
    "read_receipt",
    "receipt_name",
]
