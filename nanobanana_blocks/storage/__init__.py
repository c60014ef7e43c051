"""Any fsspec folder: written so that no reader sees half a file, with errors in plain words."""

from nanobanana_blocks.storage.dates import DATE
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from nanobanana_blocks.storage.locations import Location, redact
from nanobanana_blocks.storage.names import MAX_NAME_BYTES, safe_name

__all__ = [
    "DATE",
    "MAX_NAME_BYTES",
    "Destination",
    "Location",
    "StorageLocation",
    "redact",
    "safe_name",
]
