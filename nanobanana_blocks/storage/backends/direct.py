"""Publishing through obstore, which puts objects with far less CPU than fsspec's backends do.

It is used where it is installed and where the storage options say by themselves which service is
meant and with which key. Whatever else they hold, or the environment adds, leaves writing to
fsspec, as does ``obstore=False`` among them. Only plain puts go through it: exclusive creation,
listing, reading and deleting are fsspec's, and so is each error, because what obstore could not
put is put again by fsspec.

obstore follows a 303, which turns a put into a get, and takes the answer to that for success. So a
put counts only where the answer's entity tag is the storage's: on S3 the content's MD5 (keys of
KMS or of customers give other tags: fsspec then), on Azure a number in hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec.config import conf

OBSTORE = "obstore"
"""The storage option that, set to False, leaves all writing to fsspec; never passed on to it."""

_SECONDS = 120
_CLIENT = {
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(seconds=_SECONDS),
}
_PLAIN_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
"""Keys that every client writes alike in a URL; others are left to fsspec."""
_PLAIN_BUCKET = re.compile(r"[A-Za-z0-9._-]+")
"""Buckets and containers likewise: an access point's ARN is none."""
_AZURE_TAG = re.compile(r"0x[0-9A-Fa-f]+")

_WITHOUT_EFFECT = frozenset(
    {"max_concurrency", "use_listings_cache", "listings_expiry_time", "default_block_size"}
    | {"default_fill_cache", "default_cache_type", "asynchronous"}
)
"""fsspec's options that change nothing about a put."""
_OVERRIDDEN = frozenset(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"}
)
"""What may be in the environment: options win over it, or both clients take it alike."""


class DirectPuts:
    """Puts into one bucket or container. Its errors say only that fsspec should try."""

    def __init__(self, store: Any, is_tag_of: Callable[[str, bytes], bool]) -> None:
        self._store = store
        self._is_tag_of = is_tag_of
        self._put = importlib.import_module("obstore").put_async
        self._has_put = False

    @property
    def has_put(self) -> bool:
        """Whether one has succeeded, so that the service and the options are known to be right."""
        return self._has_put

    async def put(self, key: str, data: bytes, media_type: str) -> bool:
        """Put an object in one piece; tell whether it is known to be there."""
        if not _PLAIN_KEY.fullmatch(key) or {".", ".."} & set(key.split("/")):
            return False
        attributes = {"Content-Type": media_type}
        try:
            answer = await self._put(
                self._store, key, data, attributes=attributes, use_multipart=False
            )
            is_there = self._is_tag_of(str(answer["e_tag"]).strip('"'), data)
        except Exception:
            return False
        self._has_put = self._has_put or is_there
        return is_there


def direct_puts(protocol: str, bucket: str, options: Mapping[str, Any]) -> DirectPuts | None:
    """What puts objects where these options lead fsspec's backend; None where that is not sure."""
    if protocol not in _SERVICES or any(conf.get(one) for one in _SERVICES):
        return None
    if not _PLAIN_BUCKET.fullmatch(bucket):
        return None
    translate, is_tag_of = _SERVICES[protocol]
    given = {
        name: value
        for name, value in options.items()
        if value not in (None, "", {}) and name not in _WITHOUT_EFFECT
    }
    # Not installed, or options that it does not take: neither is worth a word.
    with suppress(Exception):
        stores = importlib.import_module("obstore.store")
        if (store := translate(stores, bucket, given)) is not None:
            return DirectPuts(store, is_tag_of)
    return None


def _s3(stores: Any, bucket: str, options: dict[str, Any]) -> Any:
    client, pool = dict(options.pop("client_kwargs", {})), options.pop("config_kwargs", {})
    endpoint = options.pop("endpoint_url", None) or client.pop("endpoint_url", None)
    region = client.pop("region_name", None)
    key, secret = options.pop("key", None), options.pop("secret", None)
    token, anonymous = options.pop("token", None), options.pop("anon", False)
    added = {name for name in os.environ if name.startswith("AWS_")} - _OVERRIDDEN
    if _is_plain(endpoint):
        added.discard("AWS_CA_BUNDLE")  # there is no certificate
    if options or client or added or not _asks_for_nothing(pool):
        return None
    if not anonymous and not (key and secret):
        return None
    # Who names no endpoint may have one in a configuration file, or have it found by the bucket.
    if not endpoint and (not region or _has_configuration()):
        return None
    settings: dict[str, Any] = {"virtual_hosted_style_request": False}
    if anonymous:
        settings["skip_signature"] = True
    else:
        settings |= {"access_key_id": key, "secret_access_key": secret}
    found = {"endpoint": endpoint, "region": region, "session_token": token}
    settings |= {name: value for name, value in found.items() if value}
    return stores.S3Store(bucket, **settings, **_transport(endpoint))


def _asks_for_nothing(settings: Mapping[str, Any]) -> bool:
    """Whether botocore's settings change nothing about a put without a checksum."""
    checksum = settings.get("request_checksum_calculation", "when_required")
    known = {"max_pool_connections", "request_checksum_calculation", "response_checksum_validation"}
    return checksum == "when_required" and not set(settings) - known


def _has_configuration() -> bool:
    """Whether botocore has a file to read an endpoint from; it takes one from either."""
    return any(Path(f"~/.aws/{name}").expanduser().exists() for name in ("config", "credentials"))


def _is_md5(tag: str, data: bytes) -> bool:
    return tag == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _azure(stores: Any, container: str, options: dict[str, Any]) -> Any:
    if any(name.startswith("AZURE_") for name in os.environ):
        return None
    connection = options.pop("connection_string", None)
    if connection is not None:
        # Names are in any case, as the SDK takes them.
        given = (part.split("=", 1) for part in connection.rstrip(";").split(";"))
        parts = {name.lower(): value for name, value in given}
        if options or parts.get("endpointsuffix", "core.windows.net") != "core.windows.net":
            return None
        account, key = parts.get("accountname"), parts.get("accountkey")
        endpoint, sas = parts.get("blobendpoint"), parts.get("sharedaccesssignature")
        if endpoint is None and parts.get("defaultendpointsprotocol", "https") != "https":
            return None
        account = account or (_account_at(endpoint) if endpoint else None)
    else:
        account, key = options.pop("account_name", None), options.pop("account_key", None)
        endpoint, sas = None, options.pop("sas_token", None)
        if options:
            return None
    if not account or bool(key) == bool(sas):
        return None
    secret = {"account_key": key} if key else {"sas_key": str(sas).removeprefix("?")}
    place = {"endpoint": endpoint.rstrip("/")} if endpoint else {}
    return stores.AzureStore(
        container, account_name=account, **secret, **place, **_transport(endpoint)
    )


def _account_at(endpoint: str) -> str:
    """The account that a blob endpoint belongs to: its first label, or the path of an emulator."""
    parts = urlsplit(endpoint)
    return parts.path.strip("/") or str(parts.hostname).partition(".")[0]


def _is_plain(endpoint: str | None) -> bool:
    return (endpoint or "").startswith("http://")


def _transport(endpoint: str | None) -> dict[str, Any]:
    """No retries here: fsspec's backend is the next try, and tells what is wrong."""
    plain = {"allow_http": True} if _is_plain(endpoint) else {}
    return {"client_options": {**_CLIENT, **plain}, "retry_config": {"max_retries": 0}}


_SERVICES: Mapping[str, tuple[Callable[..., Any], Callable[[str, bytes], bool]]] = {
    **dict.fromkeys(("s3", "s3a"), (_s3, _is_md5)),
    **dict.fromkeys(
        ("az", "abfs", "abfss"), (_azure, lambda tag, _: bool(_AZURE_TAG.fullmatch(tag)))
    ),
}
"""By protocol: how options are translated, and whether an entity tag is that of some content."""
