"""Any fsspec folder: written so that no reader sees half a file, with errors in plain words."""
