"""The Prefect blocks."""
