"""The service: what its answers mean, when to ask it, and how much; it lands nothing."""
