"""What a file is that is no manifest, told by its first bytes, so that one message says it.

Only kinds that people were seen to give by mistake are known: workbooks, archives, web pages.
"""

from __future__ import annotations

import re

_HEAD_BYTES = 4096
_ZIP = b"PK\x03\x04"

_WORKBOOK = "this is a spreadsheet workbook{}. Save its sheet as CSV UTF-8, and give that file."
_COMPRESSED = "this is compressed ({}). Unpack it, and give the file within."
_OTHER = "this is {}, and no manifest. Give a JSONL or CSV file."

_IN_A_ZIP = (
    (b"xl/", _WORKBOOK.format(" (.xlsx)")),
    (b"opendocument.spreadsheet", _WORKBOOK.format(" (.ods)")),
    (b"Index/", _WORKBOOK.format(" (.numbers)")),
    (b"word/", _OTHER.format("a Word document")),
    (b"opendocument.text", _OTHER.format("a text document")),
)
"""What the first names in a zip archive, or its directory at the end, tell of it."""

_SIGNATURES = (
    (b"\x1f\x8b", _COMPRESSED.format("gzip")),
    (b"BZh", _COMPRESSED.format("bzip2")),
    (b"\xfd7zXZ\0", _COMPRESSED.format("xz")),
    (b"\x28\xb5\x2f\xfd", _COMPRESSED.format("zstd")),
    (b"\x04\x22\x4d\x18", _COMPRESSED.format("lz4")),
    (b"7z\xbc\xaf\x27\x1c", _COMPRESSED.format("7z")),
    (b"Rar!\x1a\x07", _COMPRESSED.format("rar")),
    (b"PK\x05\x06", _OTHER.format("an empty zip archive")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _WORKBOOK.format(", or another old Office file (.xls)")),
    (b"PAR1", _OTHER.format("a Parquet file")),
    (b"ARROW1", _OTHER.format("an Arrow file")),
    (b"Obj\x01", _OTHER.format("an Avro file")),
    (b"SQLite format 3\0", _OTHER.format("a SQLite database")),
    (b"%PDF-", _OTHER.format("a PDF document")),
    (b"{\\rtf", _OTHER.format("a rich text document")),
    (b"\x89PNG", _OTHER.format("an image")),
    (b"\xff\xd8\xff", _OTHER.format("an image")),
    (
        b"version https://git-lfs.github.com/spec/",
        "this is a Git LFS pointer. Fetch the file itself with `git lfs pull`.",
    ),
)

_HTML = re.compile(
    rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|script|meta|title|div|table)\b",
    re.IGNORECASE | re.DOTALL,
)
_XML = re.compile(rb"\s*(?:<\?xml\b|<(?:Error|Workbook|feed|rss)\b)", re.IGNORECASE)

_WEB_PAGE = "this is an HTML page, perhaps one to sign in or of an error. Download the file itself."
_XML_TEXT = (
    "this is XML, perhaps a storage's error or an export of a spreadsheet. Give a JSONL or CSV "
    "file."
)


def foreign_kind(data: bytes, start: int) -> str | None:
    """What a file is that holds no rows, and what to do; None where it may be a manifest.

    Args:
        data: The file's bytes.
        start: Where its text begins: behind a byte order mark, if there is one.
    """
    head = data[:_HEAD_BYTES]
    if head.startswith(_ZIP):
        names = head + data[-_HEAD_BYTES:]
        found = (message for sign, message in _IN_A_ZIP if sign in names)
        return next(found, _COMPRESSED.format("zip"))
    for signature, message in _SIGNATURES:
        if head.startswith(signature):
            return message
    text = data[start : start + _HEAD_BYTES]
    if _HTML.match(text):
        return _WEB_PAGE
    return _XML_TEXT if _XML.match(text) else None
