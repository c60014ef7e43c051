"""What is remembered of reference images between runs, beside the images; it reads no image.

By it, a file that has not changed is not read again, and a row whose file is gone meanwhile is
still recognised. It is a convenience: where it is lost, files are read once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.references.inspection import Picture
from nanobanana_blocks.storage.destination import StorageLocation

FOLDER = ".nanobanana/references"
FILE = "known.json"

_logger = logging.getLogger(__name__)


class Known(BaseModel):
    """What a file was when it was last read; `version` is the storage's word for that content."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    media_type: str
    size: int
    width: int
    height: int
    version: str | None = None

    @classmethod
    def of(cls, picture: Picture, version: str | None) -> Known:
        """What is remembered of a picture."""
        return cls(**vars(picture), version=version)

    @property
    def picture(self) -> Picture:
        """The picture as it was."""
        return Picture(self.sha256, self.media_type, self.size, self.width, self.height)


_ALL = TypeAdapter(dict[str, Known])


async def recall(images: StorageLocation) -> dict[str, Known]:
    """What is remembered beside the images, by the files' places; nothing where it is unreadable.

    Raises:
        DestinationError: The place of the images cannot be used.
    """
    async with await images.child(FOLDER).open() as folder:
        try:
            data = await folder.read(FILE)
        except NanoBananaError as error:
            _logger.warning("Could not read %s; continuing: %s", folder.path_of(FILE), error)
            return {}
    try:
        return await asyncio.to_thread(_ALL.validate_json, data) if data else {}
    except ValidationError:
        return {}


async def remember(images: StorageLocation, found: Mapping[str, Known]) -> None:
    """Add to what is remembered; that it cannot be written is logged."""
    try:
        known = await recall(images)
        if all(known.get(place) == one for place, one in found.items()):
            return
        data = await asyncio.to_thread(_ALL.dump_json, {**known, **found}, exclude_none=True)
        async with await images.child(FOLDER).open() as folder:
            await folder.check_writable()  # makes the folder, where there are folders
            await folder.publish(FILE, data, "application/json")
    except NanoBananaError as error:
        _logger.warning("Could not remember the reference images; continuing: %s", error)
