"""What makes a callback believable: tokens in its path and signatures in its headers; no I/O.

The service does not sign callbacks (documented only for sister products), so its callback address
itself is the secret: nobody who does not know it can have a callback accepted.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from nanobanana_blocks.errors import InvalidInput

SHORTEST_SECRET = 16
MAX_JOB_KEY_LENGTH = 128
SIGNATURE_WINDOW_SECONDS = 300

_CONTEXT = b"nanobanana-blocks/callback-token/1"
_JOB_KEY = re.compile(rf"[A-Za-z0-9._~-]{{1,{MAX_JOB_KEY_LENGTH}}}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class VerifiedToken(NamedTuple):
    """What a genuine token says: the job key that it is bound to, if it is bound to one."""

    job_key: str | None


def callback_token(secret: str | SecretStr, job_key: str | None = None) -> str:
    """The last segment of the callback address: `<token>`, or `<job key>.<token>`.

    Args:
        secret: The callback secret, 16 characters at least.
        job_key: What the submit is about, in the caller's words; it comes back with the callback,
            so that a task can be tied to its submit even where the submit's answer was lost. Up to
            128 letters, digits and `.`, `_`, `~`, `-`.

    Raises:
        InvalidInput: The secret or the job key cannot be used.
    """
    key = check_secret(secret)
    if job_key is None:
        return _token(key, None)
    return f"{check_job_key(job_key)}.{_token(key, job_key)}"


def verify_callback_token(secret: str | SecretStr, token: str) -> VerifiedToken | None:
    """What a genuine token says, or None for any other text; compares in constant time."""
    job_key, bound, signature = token.rpartition(".")
    if bound and not _JOB_KEY.fullmatch(job_key):
        return None
    found = VerifiedToken(job_key if bound else None)
    expected = _token(check_secret(secret), found.job_key)
    return found if hmac.compare_digest(expected.encode(), signature.encode()) else None


def callback_url(public_url: str, secret: str | SecretStr, job_key: str | None = None) -> str:
    """The address to give as `callBackUrl`; keep it as private as the secret.

    Args:
        public_url: How the service reaches the receiver, with the prefix that it is mounted under.
        secret: The callback secret.
        job_key: See `callback_token`.

    Raises:
        InvalidInput: One of them cannot be used.
    """
    try:
        parts = urlsplit(public_url.strip())
        usable = parts.scheme in ("https", "http") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidInput(
            "the public URL must be like https://callbacks.example.com, without user, password, "
            "query or fragment"
        )
    return f"{parts.geturl().rstrip('/')}/callbacks/{callback_token(secret, job_key)}"


def check_secret(secret: str | SecretStr) -> bytes:
    """The callback secret as bytes, or `InvalidInput` if it is blank or too short."""
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    text = text.strip()
    if len(text) < SHORTEST_SECRET:
        state = f"has only {len(text)} characters" if text else "is blank"
        raise InvalidInput(
            f"the callback secret {state}: use {SHORTEST_SECRET} or more that nobody can guess, "
            "such as the output of `openssl rand -hex 32`"
        )
    return text.encode("utf-8", "surrogatepass")


def check_job_key(job_key: str) -> str:
    """Return `job_key`, or raise `InvalidInput` if it cannot be part of an address as it is."""
    if not _JOB_KEY.fullmatch(job_key):
        raise InvalidInput(
            f"a job key has 1 to {MAX_JOB_KEY_LENGTH} letters, digits and . _ ~ - (hash anything "
            f"else): {job_key[:40]!r}"
        )
    return job_key


def is_signed(
    key: bytes, task_id: str, timestamp: str | None, signature: str | None, *, now: float
) -> bool:
    """Whether a sister product's signature headers vouch for a callback about `task_id`.

    Documented for sister products only: `X-Webhook-Timestamp` is in unix seconds, and
    `X-Webhook-Signature` is base64(HMAC-SHA256(key, task id + "." + timestamp)). That proves the
    task id, not the body. `now` is in unix seconds; older or newer by 5 minutes is refused.
    """
    if timestamp is None or signature is None or not _TIMESTAMP.fullmatch(timestamp):
        return False
    message = f"{task_id}.{timestamp}".encode()
    expected = base64.b64encode(hmac.digest(key, message, hashlib.sha256))
    genuine = hmac.compare_digest(expected, signature.encode())
    return genuine and abs(now - int(timestamp)) <= SIGNATURE_WINDOW_SECONDS


def _token(key: bytes, job_key: str | None) -> str:
    message = _CONTEXT if job_key is None else b"%s/job:%s" % (_CONTEXT, job_key.encode())
    digest = hmac.digest(key, message, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
