"""Prefect blocks, tasks and flows that land every finished NanoBanana image in your storage.

The API's facts come from https://docs.nanobananaapi.ai; what is only observed or assumed is marked
so where it is used. Everything is imported when it is first asked for, so that nobody waits for
what is not needed, such as Prefect.
"""

from nanobanana_blocks._version import __version__

TYPE_CHECKING = False  # that of `typing`, whose import takes longer than all the rest here
if TYPE_CHECKING:
    from typing import Any

    from nanobanana_blocks.api.client import NanoBananaClient
    from nanobanana_blocks.api.details import TaskDetails, TaskStatus
    from nanobanana_blocks.api.requests import (
        Generate2Request,
        GenerateProRequest,
        GenerateRequest,
        GenericRequest,
    )
    from nanobanana_blocks.api.schedule import PollPolicy
    from nanobanana_blocks.landing.receipt import LandedImage
    from nanobanana_blocks.landing.report import LandingOutcome, LandingReport, LandingStatus
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
    "GenericRequest",
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

_MODULES = {
    "Generate2Request": "api.requests",
    "GenerateProRequest": "api.requests",
    "GenerateRequest": "api.requests",
    "GenericRequest": "api.requests",
    "ImageStore": "orchestration.blocks.image_store",
    "LandedImage": "landing.receipt",
    "LandingOutcome": "landing.report",
    "LandingReport": "landing.report",
    "LandingStatus": "landing.report",
    "NanoBananaClient": "api.client",
    "NanoBananaCredentials": "orchestration.blocks.credentials",
    "NanoBananaGeneration": "orchestration.blocks.generation",
    "NanoBananaTask": "orchestration.blocks.generation",
    "PollPolicy": "api.schedule",
    "TaskDetails": "api.details",
    "TaskStatus": "api.details",
}


def __getattr__(name: str) -> "Any":
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
