"""The place for files of a sister product, from that product's documentation alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from nanobanana_blocks.sandbox.exchange import Answer
from nanobanana_blocks.sandbox.submits import RefusedSubmitError

if TYPE_CHECKING:
    from nanobanana_blocks.sandbox.exchange import Exchange
    from nanobanana_blocks.sandbox.state import SandboxState

UPLOAD = "upload"
UPLOAD_PATH = "/api/file-stream-upload"
FILES = "/uploads/"


def keep(state: SandboxState, content_type: bytes, body: bytes) -> dict[str, Any]:
    """Keep the file of a form, over one of the same name; return what is told of it."""
    parts = _parts(content_type, body)
    folder = parts.get("uploadPath", (b"", b""))[1].decode("utf-8", "replace").strip("/")
    if "file" not in parts or not folder:
        raise RefusedSubmitError(400, "file and uploadPath are required")
    head, data = parts["file"]
    given = parts["fileName"][1].decode("utf-8", "replace") if "fileName" in parts else "file"
    name = re.sub(r"[^A-Za-z0-9._-]", "_", given)
    kind = re.search(rb"content-type: *([\w/+.-]+)", head, re.IGNORECASE)
    media_type = kind[1].decode() if kind else "application/octet-stream"
    path = f"{folder}/{name}"
    state.uploads[f"{FILES}{path}"] = (data, media_type)
    state.counts.files_uploaded += 1
    return {
        "fileName": name,
        "filePath": path,
        "downloadUrl": f"{state.base_url}{FILES}{path}",
        "fileSize": len(data),
        "mimeType": media_type,
    }


async def serve(state: SandboxState, exchange: Exchange) -> None:
    """Give a file that was uploaded to anyone who asks."""
    data, media_type = state.uploads.get(exchange.path, (b"", ""))
    if media_type:
        await exchange.answer(Answer(data, media_type=media_type))
    else:
        await exchange.answer(Answer(b"", 404, "text/plain"))


def _parts(content_type: bytes, body: bytes) -> dict[str, tuple[bytes, bytes]]:
    """Head and content of each part of a form, by its name."""
    boundary = re.search(rb'boundary="?([^";]+)', content_type)
    found = {}
    for part in body.split(b"--" + boundary[1])[1:-1] if boundary else []:
        head, _, content = part.partition(b"\r\n\r\n")
        if name := re.search(rb'name="([^"]*)"', head):
            found[name[1].decode("utf-8", "replace")] = (head, content.removesuffix(b"\r\n"))
    return found
