"""The commands of `nanobanana`, in the order of its help; each is in the module of its group."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperGroup

from nanobanana_blocks._version import __version__
from nanobanana_blocks.cli.batch import batch
from nanobanana_blocks.cli.callbacks import callbacks
from nanobanana_blocks.cli.gallery import gallery
from nanobanana_blocks.cli.generate import generate
from nanobanana_blocks.cli.history import history
from nanobanana_blocks.cli.local import demo, sandbox
from nanobanana_blocks.cli.output import error_as_json, print_json
from nanobanana_blocks.cli.references import clear_references
from nanobanana_blocks.cli.setup import automations, init, save_key
from nanobanana_blocks.cli.tasks import account_credits, land, status
from nanobanana_blocks.cli.verify import verify
from nanobanana_blocks.errors import InvalidInput

_UsageError: Final = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
"""Of click, or of the copy of it that typer has: its base for wrong usage."""


class _Commands(TyperGroup):
    """The commands, which with ``--json`` tell of wrong usage in JSON, too."""

    def invoke(self, ctx: Any) -> Any:
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            if as_json:
                print_json(error_as_json(InvalidInput(error.format_message())))
            raise


app = typer.Typer(
    name="nanobanana",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Land every finished NanoBanana image in your storage.

    The key comes from the environment variable NANOBANANA_API_KEY (and the server, if it is not
    the public one, from NANOBANANA_BASE_URL). `nanobanana demo` shows everything on this machine
    and spends nothing.

    Exit codes: 0 all is well · 1 nothing could be done · 2 wrong usage · 3 not everything landed,
    or the generation failed · 4 still generating · 130 interrupted.
    """,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # its callback does it
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of the command itself; the help text is the application's."""


app.command()(demo)
app.command()(sandbox)
app.command()(generate)
app.command()(batch)
app.command()(land)
app.command()(verify)
app.command()(gallery)
app.command()(history)
app.command("clear-references")(clear_references)
app.command()(status)
app.command("credits")(account_credits)
app.command()(init)
app.command("save-key")(save_key)
app.command()(automations)
app.command()(callbacks)
