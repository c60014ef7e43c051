"""The Prefect blocks in one module, where Prefect finds them by this package's entry point."""

from nanobanana_blocks.orchestration.blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.orchestration.blocks.generation import NanoBananaGeneration
from nanobanana_blocks.orchestration.blocks.image_store import ImageStore

__all__ = ["ImageStore", "NanoBananaCredentials", "NanoBananaGeneration"]
