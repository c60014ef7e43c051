"""The Prefect blocks in one module, where Prefect finds them by this package's entry point."""

from nanobanana_blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.image_store import ImageStore
from nanobanana_blocks.jobs import NanoBananaGeneration

__all__ = ["ImageStore", "NanoBananaCredentials", "NanoBananaGeneration"]
