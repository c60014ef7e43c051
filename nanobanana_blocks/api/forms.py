"""What forms made from this package's models say; it does no I/O."""

from __future__ import annotations

from typing import Any


def describe_briefly(schema: dict[str, Any]) -> None:
    """Keep the first paragraph of a model's docstring, as plain text, for `json_schema_extra`.

    Prefect's forms show a model's whole docstring as it stands in the code, examples included.
    """
    first_paragraph = schema.get("description", "").split("\n\n")[0]
    schema["description"] = " ".join(first_paragraph.split()).replace("`", "")
