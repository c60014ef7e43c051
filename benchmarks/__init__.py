"""What the project's figures are measured with; run ``python -m benchmarks``."""
