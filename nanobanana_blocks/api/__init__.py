"""The service: what its answers mean, when to ask it, and how much; it lands nothing.

What sends requests is imported from `api.client`, so that values cost no HTTP client.
"""

from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.details import TaskDetails, TaskStatus, check_task_id, check_task_ids
from nanobanana_blocks.api.requests import (
    REQUESTS,
    Endpoint,
    Generate2Request,
    GenerateProRequest,
    GenerateRequest,
    GenerationRequest,
    GenericRequest,
    check_callback_url,
)
from nanobanana_blocks.api.schedule import PollPolicy

__all__ = [
    "REQUESTS",
    "Endpoint",
    "Generate2Request",
    "GenerateProRequest",
    "GenerateRequest",
    "GenerationRequest",
    "GenericRequest",
    "PollPolicy",
    "RequestBudget",
    "TaskDetails",
    "TaskStatus",
    "check_callback_url",
    "check_task_id",
    "check_task_ids",
]
