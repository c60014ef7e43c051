"""The API key as a Prefect block, and how a flow finds it by name; the key is never a parameter."""

from __future__ import annotations

import re

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from nanobanana_blocks.api.client import (
    DEFAULT_BASE_URL,
    KEY_VARIABLE,
    NanoBananaClient,
    key_and_base_url_from_environment,
)
from nanobanana_blocks.errors import InvalidInput, MissingCredentials

LOGO_URL = (
    "https://raw.githubusercontent.com/nanobanana-blocks/nanobanana-blocks/main/docs/logo.png"
)
DOCUMENTATION_URL = "https://github.com/nanobanana-blocks/nanobanana-blocks#readme"


class NanoBananaCredentials(Block):
    """The key to the NanoBanana API.

    Flows and tasks take the name under which this block is saved, never the block itself: Prefect
    keeps parameters where people can read them.

    Attributes:
        api_key: The API key.
        base_url: The API server.
        callback_secret: What the callback receiver's addresses are made from.

    Example:
        Load stored credentials and ask about a generation task:
        ```python
        from nanobanana_blocks import NanoBananaCredentials

        credentials = NanoBananaCredentials.load("BLOCK_NAME")

        async def status(task_id: str) -> str:
            async with credentials.get_client() as client:
                return (await client.get_task_details(task_id)).status.name
        ```
    """

    _block_type_name = "NanoBanana Credentials"
    _block_type_slug = "nanobanana-credentials"
    _logo_url = LOGO_URL  # type: ignore[assignment]  # Prefect's own blocks give text here too
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]  # likewise

    api_key: SecretStr = Field(
        title="API Key",
        description="The API key, from https://nanobananaapi.ai/api-key.",
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        title="Base URL",
        description="The API server; change it only for a sandbox or a gateway of your own.",
    )
    callback_secret: SecretStr = Field(
        default=SecretStr(""),
        title="Callback Secret",
        description="A long random text from which the callback receiver's address is made.",
    )

    def get_client(self) -> NanoBananaClient:
        """Make a client, to be used as an async context manager.

        Raises:
            InvalidInput: The key or the base URL cannot be meant.
        """
        return NanoBananaClient(self.api_key, self.base_url)

    @classmethod
    def from_environment(cls) -> NanoBananaCredentials | None:
        """The credentials that `NANOBANANA_API_KEY` and `NANOBANANA_BASE_URL` give, if any."""
        found = key_and_base_url_from_environment()
        return cls(api_key=found[0], base_url=found[1]) if found else None


BLOCK_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def check_block_name(name: str) -> str:
    """Return `name`, or raise `InvalidInput` if Prefect would not save a block under it."""
    if not BLOCK_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r:.80} cannot be a block's name: use lower case letters, digits and dashes"
        )
    return name


async def load_credentials(name: str, *, or_environment: bool = True) -> NanoBananaCredentials:
    """The credentials saved under `name`; where none are, those of the environment.

    Raises:
        MissingCredentials: There are none; the message says how to make them.
    """
    try:
        return await NanoBananaCredentials.aload(name)
    except ValueError as missing:
        if "Unable to find block document" not in str(missing):
            raise
    found = NanoBananaCredentials.from_environment() if or_environment else None
    if found is None:
        unset = f", and {KEY_VARIABLE} is not set" if or_environment else ""
        raise MissingCredentials(
            f"no NanoBananaCredentials block is saved as {name!r}{unset}. "
            f"Save one with `nanobanana save-key {name}`."
        )
    return found
