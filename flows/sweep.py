"""The flow `sweep` at a path, for deployments by file; it is part of the package."""

from nanobanana_blocks.flows.sweep import sweep

__all__ = ["sweep"]
