"""The flows `run_batch` and `run_shard` at a path, for deployments by file; see the package."""

from nanobanana_blocks.flows.run_batch import run_batch, run_shard

__all__ = ["run_batch", "run_shard"]
