"""The API key as a Prefect block, and how a flow finds it by name; the key is never a parameter."""

from __future__ import annotations

import re

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator

from nanobanana_blocks.api.client import (
    DEFAULT_BASE_URL,
    KEY_VARIABLE,
    NanoBananaClient,
    access_from_environment,
)
from nanobanana_blocks.api.connection import check_api_key, check_base_url
from nanobanana_blocks.api.dialects import DialectName
from nanobanana_blocks.callbacks.tokens import check_secret
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
        dialect: How the API is asked; `jobs` was tested against its documentation alone.
        upload_url: The provider's server for uploads, where images to work from go by it.

    Example:
        Load stored credentials and ask about a generation task:
        ```python
        from nanobanana_blocks import NanoBananaCredentials

        credentials = NanoBananaCredentials.load("BLOCK_NAME")

        async def print_status(task_id: str):
            async with credentials.get_client() as client:
                details = await client.get_task_details(task_id)
                print(details.status.name)
        ```
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "NanoBanana Credentials"
    _block_type_slug = "nanobanana-credentials"
    _description = (
        "The key to the NanoBanana API. Flows and tasks take the name of this block, never the key."
    )
    _logo_url = LOGO_URL  # type: ignore[assignment]  # Prefect's own blocks give text here too
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]  # likewise

    api_key: SecretStr = Field(
        title="API Key",
        description="The API key, from https://nanobananaapi.ai/api-key.",
        json_schema_extra={"pattern": r"^\s*[!-~]+\s*$"},
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        title="Base URL",
        description="The API server; change it only for a sandbox or a gateway of your own.",
        json_schema_extra={"pattern": r"^\s*https?://[^\s?#@]+$"},
    )
    callback_secret: SecretStr = Field(
        default=SecretStr(""),
        title="Callback Secret",
        description="A random text of 16 characters or more, such as the output of "
        "`openssl rand -hex 32`, from which the callback receiver's address is made.",
        json_schema_extra={"pattern": r"^$|^.{16,}$"},
    )
    dialect: DialectName = Field(
        default="nanobanana",
        title="Dialect",
        description="How the API is asked: jobs is that of a sister product, by the names of "
        "models, and was tested against its documentation alone, never against the service.",
    )

    upload_url: str = Field(
        default="",
        title="Upload URL",
        description="The provider's server for uploads, which gets the key: files to work from are "
        "uploaded there, unless a place for copies is given. Documented for a sister product only.",
        json_schema_extra={"pattern": r"^\s*$|^\s*https?://[^\s?#@]+$"},
    )

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, value: SecretStr) -> SecretStr:
        check_api_key(value.get_secret_value())
        return value

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        check_base_url(value)
        return value

    @field_validator("upload_url")
    @classmethod
    def _check_upload_url(cls, value: str) -> str:
        if value.strip():
            check_base_url(value)
        return value.strip()

    @field_validator("callback_secret")
    @classmethod
    def _check_callback_secret(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value().strip():
            check_secret(value)
        return value

    def get_client(self) -> NanoBananaClient:
        """Make a client, to be used as an async context manager."""
        return NanoBananaClient(
            self.api_key,
            self.base_url,
            dialect=self.dialect,
            upload_url=self.upload_url or None,
        )

    @classmethod
    def from_environment(cls) -> NanoBananaCredentials | None:
        """The credentials that the variables `NANOBANANA_…` give, if there is a key among them.

        Raises:
            InvalidInput: There is no such dialect as `NANOBANANA_DIALECT`.
        """
        found = access_from_environment()
        return cls(**found._asdict()) if found else None


BLOCK_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def check_block_name(name: str) -> str:
    """Return `name`, or raise `InvalidInput` if Prefect would not save a block under it."""
    if not BLOCK_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r:.80} is invalid as a block's name: use lower case letters, digits and dashes"
        )
    return name


async def load_credentials(name: str, *, or_environment: bool = True) -> NanoBananaCredentials:
    """The credentials saved under `name`; where none are, those of the environment.

    Raises:
        MissingCredentials: There are none; the message says how to make them.
        InvalidInput: Something in them is invalid; the message names the block.
    """
    try:
        return await NanoBananaCredentials.aload(name)
    except ValueError as missing:
        if "Unable to find block document" not in str(missing):
            raise
    except RuntimeError as invalid:  # Prefect's, for a block that does not pass its validation
        raise InvalidInput(
            f"the NanoBananaCredentials block {name!r} is invalid: {what_is_invalid(invalid)}. "
            f"Edit it in Prefect's UI, or save it anew: `nanobanana save-key {name} --overwrite`."
        ) from None
    found = NanoBananaCredentials.from_environment() if or_environment else None
    if found is None:
        unset = f", and {KEY_VARIABLE} is not set" if or_environment else ""
        raise MissingCredentials(
            f"no NanoBananaCredentials block is saved as {name!r}{unset}. "
            f"Save one with `nanobanana save-key {name}`."
        )
    return found


def what_is_invalid(error: BaseException) -> str:
    """What is wrong with a block that could not be made or loaded, without its values."""
    invalid = error if isinstance(error, ValidationError) else error.__cause__
    if not isinstance(invalid, ValidationError):
        return type(error).__name__
    return "; ".join(
        problem["msg"].removeprefix("Value error, ").rstrip(".")
        if problem["type"] == "value_error"
        else f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        for problem in invalid.errors(include_input=False, include_url=False)
    )
