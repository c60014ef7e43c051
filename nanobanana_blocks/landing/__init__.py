"""From a generation task to its images and receipt in storage."""
