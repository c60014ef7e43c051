"""The flow `land_images` at a path, for deployments by file; it is part of the package."""

from nanobanana_blocks.flows.land_images import land_images, land_images_sync

__all__ = ["land_images", "land_images_sync"]
