"""Prefect blocks, tasks and flows that land every finished NanoBanana image in your storage.

The API's facts come from https://docs.nanobananaapi.ai; what is only observed or assumed is marked
so where it is used.
"""

from nanobanana_blocks._version import __version__
from nanobanana_blocks.client import NanoBananaClient
from nanobanana_blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.image_store import ImageStore
from nanobanana_blocks.jobs import NanoBananaTask
from nanobanana_blocks.models import (
    LandedImage,
    LandingOutcome,
    LandingReport,
    LandingStatus,
    TaskDetails,
    TaskStatus,
)
from nanobanana_blocks.schedule import PollPolicy

__all__ = [
    "ImageStore",
    "LandedImage",
    "LandingOutcome",
    "LandingReport",
    "LandingStatus",
    "NanoBananaClient",
    "NanoBananaCredentials",
    "NanoBananaTask",
    "PollPolicy",
    "TaskDetails",
    "TaskStatus",
    "__version__",
]
