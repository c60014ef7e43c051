"""What was paid for and has not landed."""
