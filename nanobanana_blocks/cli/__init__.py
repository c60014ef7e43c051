"""The `nanobanana` command; all it does is in the modules beside, which take a moment to import."""

from nanobanana_blocks.cli.interrupts import end_at_once_on_interrupt

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    end_at_once_on_interrupt()
    from nanobanana_blocks.cli.app import app

    app()
