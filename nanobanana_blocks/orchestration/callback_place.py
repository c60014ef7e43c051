"""Where callbacks' tasks are announced, and where they land: the same place, or none at all."""

from __future__ import annotations

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from nanobanana_blocks.callbacks import ReceiverStartError
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.orchestration.blocks.image_store import load_store
from nanobanana_blocks.storage.dates import DATE
from nanobanana_blocks.storage.locations import Location, redact

DEPLOYMENT = "land-images/on-callback"
"""What lands the task of a callback, at its event."""


async def agree_on_place(to: str | None) -> tuple[str | None, list[str]]:
    """Return where tasks called back are announced, and remarks for whoever starts the receiver.

    It is where the deployment lands them; with `to`, both must be the same place.

    Args:
        to: The place that the user names; by default the deployment's.

    Raises:
        ReceiverStartError: The deployment lands them elsewhere; the message names both places.
        NanoBananaError: A place is invalid, or is no saved block's.
    """
    if not PREFECT_API_URL.value():
        return to, ["PREFECT_API_URL is not set: where callbacks land is not checked."]
    try:
        lands_in = await _landing_place()
    except NanoBananaError:
        raise
    except Exception as error:  # whatever Prefect's client raises, callbacks are still to be kept
        name = type(error).__name__
        return to, [f"Could not ask Prefect where callbacks land; continuing unchecked ({name})."]
    if lands_in is None:
        return to, [f"There is no deployment {DEPLOYMENT}: no callback lands anything by itself."]
    if to is None:
        return await _of_deployment(lands_in)
    if DATE in to:
        return to, []  # refused with its own reason by what announces there
    await _require_same(to, lands_in)
    return to, [f"{DEPLOYMENT} lands in the same place: {redact(lands_in)}"]


async def _landing_place() -> str | None:
    async with get_client() as prefect:
        try:
            deployment = await prefect.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            return None
    place = deployment.parameters.get("destination")
    return place if isinstance(place, str) and place.strip() else "images"


async def _of_deployment(lands_in: str) -> tuple[str | None, list[str]]:
    url = (await load_store(lands_in)).url
    if DATE in url or _is_relative(url):
        reason = f"holds {DATE}" if DATE in url else "is relative to a worker's folder"
        lands = f"{DEPLOYMENT} lands in {redact(lands_in)}, which {reason}"
        return None, [f"{lands}: no sweep is told of callbacks."]
    return lands_in, [f"Tasks called back are announced where {DEPLOYMENT} lands: {redact(url)}"]


async def _require_same(to: str, lands_in: str) -> None:
    ours, theirs = (await load_store(to)).url, (await load_store(lands_in)).url
    named = f"--to is {redact(to)}, and the deployment {DEPLOYMENT} lands in {redact(lands_in)}"
    if _is_relative(ours) or _is_relative(theirs):
        raise ReceiverStartError(
            f"{named}. A relative path is another folder for a worker than for the receiver. Give "
            "both an absolute path, a URL or the name of an ImageStore."
        )
    if Location.parse(ours).url != Location.parse(theirs).url:
        raise ReceiverStartError(
            f"{named}. What is called back would be looked for in a place where it never lands. "
            "Leave --to out, or give the deployment the same destination."
        )


def _is_relative(url: str) -> bool:
    return "://" not in url and not Path(url).expanduser().is_absolute()
