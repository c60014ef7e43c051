"""What people see of a run in Prefect, and what wakes a run."""
