"""Prefect blocks, tasks and flows that land every finished NanoBanana image in your storage.

The API's facts come from https://docs.nanobananaapi.ai; what is only observed or assumed is marked
so where it is used. What needs Prefect is imported when it is first asked for, so that the command
line does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nanobanana_blocks._version import __version__
from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.requests import Generate2Request, GenerateProRequest, GenerateRequest
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.landing.receipt import LandedImage
from nanobanana_blocks.landing.report import LandingOutcome, LandingReport, LandingStatus

if TYPE_CHECKING:
    from nanobanana_blocks.orchestration.blocks.credentials import NanoBananaCredentials
    from nanobanana_blocks.orchestration.blocks.generation import (
        NanoBananaGeneration,
        NanoBananaTask,
    )
    from nanobanana_blocks.orchestration.blocks.image_store import ImageStore

__all__ = [
    "Generate2Request",
    "GenerateProRequest",
    "GenerateRequest",
    "ImageStore",
    "LandedImage",
    "LandingOutcome",
    "LandingReport",
    "LandingStatus",
    "NanoBananaClient",
    "NanoBananaCredentials",
    "NanoBananaGeneration",
    "NanoBananaTask",
    "PollPolicy",
    "TaskDetails",
    "TaskStatus",
    "__version__",
]

_NEEDS_PREFECT = {
    "ImageStore": "orchestration.blocks.image_store",
    "NanoBananaCredentials": "orchestration.blocks.credentials",
    "NanoBananaGeneration": "orchestration.blocks.generation",
    "NanoBananaTask": "orchestration.blocks.generation",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_PREFECT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NEEDS_PREFECT[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
