"""All that needs Prefect, and nothing else."""
