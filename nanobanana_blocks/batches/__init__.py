"""From a manifest to generation tasks, each row paid for once."""
