"""Flows that say it themselves when their parameters are more than Prefect's server takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.settings import get_current_settings

from nanobanana_blocks.errors import InvalidInput

P = ParamSpec("P")
R = TypeVar("R")


class BoundedFlow(Flow[P, R]):
    """A flow whose call is refused, in one line, before the server answers it with a bare 422.

    A run that is started through a deployment does not come by here: the server refuses it.
    """

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        serialized = super().serialize_parameters(parameters)
        limit = get_current_settings().server.api.max_parameter_size
        sizes = {name: _json_bytes(value) for name, value in serialized.items()}
        if 0 < limit < sum(sizes.values()):
            largest = max(sizes, key=lambda name: sizes[name])
            raise InvalidInput(
                f"{largest}: the parameters of a run may take {limit:,} bytes as JSON, and this "
                f"takes {sizes[largest]:,}. Put it into a file, and give the file's path or URL."
            )
        return serialized


def bounded_flow(**options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a function a `BoundedFlow`; takes what `prefect.flow` does."""

    def decorate(function: Callable[P, R]) -> BoundedFlow[P, R]:
        return BoundedFlow(function, **options)

    return decorate


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":")).encode())
