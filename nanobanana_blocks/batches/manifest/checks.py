"""What is wrong with a row, or one value of it, that a field's type would let pass; no I/O."""

from __future__ import annotations

from nanobanana_blocks.batches.manifest.cells import is_joined
from nanobanana_blocks.batches.manifest.fields import ALTERNATIVE_PROMPT, NAMES
from nanobanana_blocks.batches.manifest.formats import Record
from nanobanana_blocks.batches.manifest.placeholders import placeholder
from nanobanana_blocks.batches.manifest.problems import value_shown
from nanobanana_blocks.storage.names import MAX_NAME_BYTES, safe_name

_SEPARATE = "Write each as an item of its own; a comma of one URL before http as %2C"
_IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
_HEADER_NAMES = frozenset(name.lower() for name in NAMES)
_ROW_MAKERS = frozenset({"prompt", "taskid", "task_id"})
"""Of these, a header has at least one."""
_RESERVED_ENDINGS = (".json", ".report")


def repeated_header(record: Record) -> str | None:
    """What is wrong with a row that is the header once more, as where files were put together."""
    cells = {
        name.strip().lower(): value.strip("\ufeff \t").lower() if isinstance(value, str) else value
        for name, value in record.fields.items()
    }
    values = list(cells.values())
    enough = 2 if record.header is None else 1
    if len(cells) < enough or not all(isinstance(value, str) for value in values):
        return None
    repeats = all(name == value for name, value in cells.items())
    other_order = len(set(values)) == len(values) > 1 and _HEADER_NAMES.issuperset(values)
    if not repeats and not (other_order and not _ROW_MAKERS.isdisjoint(values)):
        return None
    header = "a header" if record.header is None else f"the header in row {record.header}"
    return f"repeats {header}; were two files put together? Delete the row"


def unusable(record: Record, name: str, written: object, value: object) -> str | None:
    """What is wrong with a value that its field's type would let pass, or would tell wrongly."""
    if record.header is not None and isinstance(written, str):
        problem = placeholder(written, is_prompt=name in ("prompt", ALTERNATIVE_PROMPT))
        if problem:
            return problem
    if name == "image_urls" and isinstance(value, list):
        for number, url in enumerate(value, start=1):
            if is_joined(url):
                return f"item {number} joins several URLs. {_SEPARATE}"
    return None


def name_problem(name: object) -> str | None:
    if not isinstance(name, str):
        return f"must be text, not {value_shown(name)}"
    if name.lower().endswith(_IMAGE_EXTENSIONS):
        return "leave the extension out: it follows the content"
    if name.lower().endswith(_RESERVED_ENDINGS):
        return f"must not end in {' or '.join(_RESERVED_ENDINGS)}"
    if safe_name(name) != name:
        return (
            f"must be a plain file name: at most {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ -, no leading "
            f"dot, no device name such as con; not {value_shown(name)}"
        )
    return None
