"""``python -m nanobanana_blocks`` is the `nanobanana` command."""

from nanobanana_blocks.cli import main

main()
