"""Uploads of files to the provider, which then can fetch them by a URL of its own; opt-in.

Documented for a sister product alone (`file-stream-upload`): free, and deleted after one to three
days, as its pages disagree. The key is sent to the host that is named for it.
"""

from __future__ import annotations

from pydantic import SecretStr

from nanobanana_blocks.api.connection import Connection
from nanobanana_blocks.api.envelope import read_envelope
from nanobanana_blocks.api.json_values import as_object, as_url
from nanobanana_blocks.api.requests import is_url
from nanobanana_blocks.errors import ProtocolError

PATH = "/api/file-stream-upload"
FOLDER = "nanobanana-blocks"

SECONDS = 120.0
AT_ONCE = 4


class FileUploads:
    """The provider's place for files.

    Args:
        api_key: The API key.
        url: The server that takes files, without a path.

    Raises:
        InvalidInput: The key or the URL is invalid.
    """

    def __init__(self, api_key: str | SecretStr, url: str) -> None:
        self._connection = Connection(api_key, url, timeout=SECONDS, max_connections=AT_ONCE)

    @property
    def url(self) -> str:
        """The server."""
        return self._connection.base_url

    async def upload(self, data: bytes, file_name: str, media_type: str) -> str:
        """Upload a file, over one of the same name, and return the URL that it can be fetched from.

        Raises:
            APIError: One of its subclasses; `retryable` says whether trying again may help.
        """
        answer = await self._connection.exchange(
            "POST",
            PATH,
            files={"file": (file_name, data, media_type)},
            data={"uploadPath": FOLDER, "fileName": file_name},
        )
        told = as_object(read_envelope(answer.http_status, answer.body))
        url = as_url(told.get("downloadUrl"))
        if url is None or not is_url(url):
            raise ProtocolError("the answer to an upload holds no usable `downloadUrl`.", code=200)
        return url

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connection.aclose()
