"""Reference images from anywhere: found, checked before anything is spent, made reachable.

A batch, or a request, names images by URLs, paths and places; the service can fetch URLs only.
Prefect is not needed.
"""

from nanobanana_blocks.references.copies import PublicPlace, clear_copies
from nanobanana_blocks.references.delivery import References, open_references
from nanobanana_blocks.references.inspection import Picture
from nanobanana_blocks.references.sources import (
    ROW,
    LoadStore,
    SourceFile,
    SourceFinder,
    is_file,
)

__all__ = [
    "ROW",
    "LoadStore",
    "Picture",
    "PublicPlace",
    "References",
    "SourceFile",
    "SourceFinder",
    "clear_copies",
    "is_file",
    "open_references",
]
