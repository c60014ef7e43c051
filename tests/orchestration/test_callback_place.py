"""Where callbacks are announced is where they land, or the receiver does not start."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from nanobanana_blocks import ImageStore
from nanobanana_blocks.callbacks import ReceiverStartError
from nanobanana_blocks.orchestration.callback_place import agree_on_place


@pytest.fixture
async def deployed(prefect_api: str) -> AsyncIterator[Any]:
    """Makes the deployment that callbacks start, with a destination."""
    made = []

    async def deploy(destination: str) -> None:
        async with get_client() as client:
            flow_id = await client.create_flow_from_name("land-images")
            parameters = {"destination": destination}
            made.append(
                await client.create_deployment(flow_id, "on-callback", parameters=parameters)
            )

    yield deploy
    async with get_client() as client:
        for deployment in made:
            await client.delete_deployment(deployment)


async def test_without_a_place_given_it_is_the_deployments(deployed: Any, tmp_path: Path) -> None:
    """Rule: what is announced is where it lands, by construction; the remark names it."""
    await deployed(f"{tmp_path}/images")
    place, [remark] = await agree_on_place(None)
    assert place == f"{tmp_path}/images"
    assert remark.endswith(f"lands: {tmp_path}/images")


@pytest.mark.parametrize("written", ["{0}/images", "{0}/images/", "file://{0}/images"])
async def test_the_same_place_may_be_written_in_many_ways(
    deployed: Any, tmp_path: Path, written: str
) -> None:
    """Rule: places are compared, not texts."""
    await deployed(f"{tmp_path}/images")
    assert (await agree_on_place(written.format(tmp_path)))[0] == written.format(tmp_path)


async def test_a_block_is_its_place(deployed: Any, tmp_path: Path) -> None:
    """Rule: a block and its URL are the same place, and another block is another."""
    name = f"store-{uuid.uuid4().hex[:8]}"
    await ImageStore(url="s3://bucket/images").asave(name)
    await deployed(name)
    assert (await agree_on_place("s3://bucket/images"))[0] == "s3://bucket/images"
    assert (await agree_on_place(None))[0] == name
    with pytest.raises(ReceiverStartError, match="lands in"):
        await agree_on_place("s3://bucket/others")


async def test_another_place_is_refused_with_the_reason(deployed: Any, tmp_path: Path) -> None:
    """Rule: both places are named, without a password, and what to do."""
    await deployed("sftp://ann:s3cr3t@host/images")
    with pytest.raises(ReceiverStartError, match="Leave --to out") as caught:
        await agree_on_place(f"{tmp_path}/images")
    assert f"{tmp_path}/images" in str(caught.value)
    assert "sftp://ann@host/images" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


async def test_a_relative_path_is_no_place_for_two(deployed: Any) -> None:
    """Rule: a worker's folder is not the receiver's, so the same text may be two places."""
    await deployed("./images")
    with pytest.raises(ReceiverStartError, match="A relative path is another folder"):
        await agree_on_place("./images")
    place, [remark] = await agree_on_place(None)
    assert place is None
    assert "relative" in remark


async def test_without_the_deployment_the_place_is_as_given(prefect_api: str) -> None:
    """Rule: where nothing lands on callbacks, that is said, and the receiver starts."""
    place, [remark] = await agree_on_place("s3://bucket/images")
    assert place == "s3://bucket/images"
    assert "There is no deployment land-images/on-callback" in remark


async def test_without_prefect_the_receiver_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: callbacks are kept where Prefect is down or not set up; the remark says so."""
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        place, [remark] = await agree_on_place("s3://bucket/images")
    assert place == "s3://bucket/images"
    assert "Could not ask Prefect" in remark
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert "PREFECT_API_URL is not set" in (await agree_on_place("./x"))[1][0]
