"""A place for images as a Prefect block, and what a flow's `destination` text means."""

from __future__ import annotations

import asyncio
import os
import tempfile
from datetime import UTC, date, datetime
from difflib import get_close_matches
from pathlib import Path

from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment
from pydantic import ConfigDict, Field, field_validator

from nanobanana_blocks.errors import DestinationError, InvalidInput
from nanobanana_blocks.orchestration.blocks.credentials import (
    BLOCK_NAME,
    DOCUMENTATION_URL,
    LOGO_URL,
    what_is_invalid,
)
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.storage import dates
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from nanobanana_blocks.storage.locations import Location, redact


class ImageStore(Block):
    """A place for images: any fsspec URL, with what it needs to be reached.

    Attributes:
        url: Where images go.
        storage_options: What fsspec's backend for it takes, such as keys and endpoints.
        keep_prompts: Whether receipts hold the prompt.
        public_url: Where the world reads its files, where it can.

    Example:
        Load a stored place and see what is in it:
        ```python
        from nanobanana_blocks import ImageStore

        store = ImageStore.load("BLOCK_NAME")

        async def print_names():
            async with await store.open() as destination:
                print(sorted(await destination.list()))
        ```
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "NanoBanana Image Store"
    _block_type_slug = "image-store"
    _description = "A place for images: any fsspec URL, with what it needs to be reached."
    _logo_url = LOGO_URL  # type: ignore[assignment]  # Prefect's own blocks give text here too
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]  # likewise

    url: str = Field(
        title="URL",
        description="Any fsspec URL or local folder, such as s3://bucket/folder; {date} in it "
        "stands for the day of a batch.",
        json_schema_extra={"pattern": r"\S"},
    )
    storage_options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Storage Options",
        description="Keyword arguments of the fsspec backend, such as key and endpoint_url.",
    )
    keep_prompts: bool = Field(
        default=False,
        title="Keep Prompts",
        description="Write each generation task's prompt into its receipt.",
    )

    public_url: str = Field(
        default="",
        title="Public URL",
        description="The URL under which anyone can read the files of this place, such as "
        "https://cdn.example.com/folder; needed where copies of reference images go here.",
        json_schema_extra={"pattern": r"^$|^https?://[^\s?#@]+$"},
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str) -> str:
        if value.strip():
            try:
                PublicPlace(StorageLocation("."), value.strip())
            except InvalidInput as invalid:
                raise ValueError(invalid.message) from None
        return value.strip()

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            Location.parse(value)
        except DestinationError as invalid:
            raise ValueError(invalid.message) from None
        return value

    @property
    def location(self) -> StorageLocation:
        """The place without Prefect: its URL and options."""
        return StorageLocation(self.url, self.storage_options.get_secret_value())

    @property
    def public(self) -> PublicPlace:
        """The place as one that the world can read.

        Raises:
            InvalidInput: It has no public URL.
        """
        if not self.public_url:
            name = self._block_document_name
            called = f"the ImageStore {name!r}" if name else redact(self.url)
            raise InvalidInput(
                f"{called} has no public URL, so the service cannot fetch from it. Save an "
                "ImageStore with its public_url, and give its name as references."
            )
        return PublicPlace(self.location, self.public_url)

    async def open(self) -> Destination:
        """Reach the place, to be used as an async context manager.

        Raises:
            DestinationError: Its fsspec backend is not installed, or refuses the options.
        """
        try:
            return await self.location.open()
        except DestinationError as error:
            raise _naming_block(error, self._block_document_name) from None

    def for_date(self, day: date) -> ImageStore:
        """The place of a day, where the URL holds ``{date}``."""
        return self.model_copy(update={"url": dates.for_date(self.url, day)})


async def load_store(destination: str) -> ImageStore:
    """The place that a flow's `destination` means: a URL, a path, or a saved block's name.

    Raises:
        InvalidInput: It is blank, or nearly the name of a saved block.
        DestinationError: It is invalid, or a path into a worker's temporary folder; where that
            is the URL of a saved block, the message names the block.
    """
    if not isinstance(destination, str) or not destination.strip():
        raise InvalidInput("destination is blank: give a path, an fsspec URL or a block's name")
    Location.parse(destination)
    store = ImageStore(url=destination)
    if BLOCK_NAME.fullmatch(destination):
        try:
            store = await ImageStore.aload(destination)
        except ValueError as missing:
            if "Unable to find block document" not in str(missing):
                raise
            await _refuse_misspelt_name(destination)
        except RuntimeError as invalid:  # Prefect's, for a block that does not pass its validation
            raise DestinationError(
                f"the ImageStore {destination!r} is invalid: {what_is_invalid(invalid)}. "
                "Edit it in Prefect's UI."
            ) from None
    try:
        _refuse_temporary_folder(store.url)
    except DestinationError as error:
        raise _naming_block(error, store._block_document_name) from None
    return store


async def public_place(name: str | None) -> PublicPlace | None:
    """The public place for copies of reference images that a flow's `references` means.

    Raises:
        InvalidInput: It is no saved ImageStore with a public URL.
    """
    return (await load_store(name)).public if name else None


async def find_saved_location(name: str) -> StorageLocation | None:
    """The place saved under a name; None where none is. ``{date}`` in it is today's, in UTC."""
    try:
        store: ImageStore = await ImageStore.aload(name)
    except ValueError as missing:
        if "Unable to find block document" not in str(missing):
            raise
        return None
    except RuntimeError as invalid:  # Prefect's, for a block that does not pass its validation
        raise DestinationError(
            f"the ImageStore {name!r} is invalid: {what_is_invalid(invalid)}. "
            "Edit it in Prefect's UI."
        ) from None
    return store.for_date(datetime.now(UTC).date()).location


def _naming_block(error: DestinationError, name: str | None) -> DestinationError:
    """The error with the name of the block that it is about, if it is about a saved one."""
    return DestinationError(f"the ImageStore {name!r}: {error.message}") if name else error


async def _refuse_misspelt_name(name: str) -> None:
    """What is no block's name is a folder's, unless it is nearly a block's."""
    if await asyncio.to_thread(os.path.isdir, name):
        return
    async with get_client() as prefect:
        try:
            saved = await prefect.read_block_documents_by_type(ImageStore.get_block_type_slug())
        except ObjectNotFound:
            return
    alike = get_close_matches(name, [block.name for block in saved if block.name], n=1, cutoff=0.8)
    if alike:
        raise InvalidInput(
            f"no ImageStore is saved as {name!r}: did you mean {alike[0]!r}? For a folder of that "
            f"name write './{name}'"
        )


def _refuse_temporary_folder(destination: str) -> None:
    """A worker runs a flow in a folder that it deletes afterwards, unless told otherwise."""
    if "://" in destination or Path(destination).expanduser().is_absolute():
        return
    here = Path.cwd()
    is_worker_folder = here.name.endswith("prefect") and here.parent == Path(tempfile.gettempdir())
    if deployment.id and is_worker_folder:
        raise DestinationError(
            f"{redact(destination)!r} is a relative path, and would be deleted with the worker's "
            "temporary folder. Give an absolute path, an fsspec URL, or the name of a saved "
            "ImageStore."
        )
