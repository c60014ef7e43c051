"""Landing and batches as Prefect runs."""
