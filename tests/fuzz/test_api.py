"""The documented API, from a schema of its own, against the sandbox and the callback receiver."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanobanana_blocks.api.callback_bodies import read_callback
from nanobanana_blocks.api.envelope import read_envelope
from nanobanana_blocks.callbacks import callback_token, make_app
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.sandbox import Sandbox

GenerationMode = schemathesis.GenerationMode
pytestmark = pytest.mark.hypothesis

FOLDER = Path(__file__).parent
SECRET = "a secret that nobody guesses"
JSON = {"content-type": "application/json"}
shared_by_examples = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def operations(name: str) -> dict[str, Any]:
    """Each operation of a schema, by method and path."""
    schema = schemathesis.openapi.from_dict(json.loads((FOLDER / name).read_text()))
    found = (result.ok() for result in schema.get_all_operations())
    return {f"{one.method.upper()} {one.path}": one for one in found}


API, CALLBACKS = operations("api.json"), operations("callbacks.json")
SUBMITS = [name for name in API if name.startswith("POST")]


def as_bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize("name", list(API))
def test_what_the_documents_allow_is_answered_in_their_form(sandbox: Sandbox, name: str) -> None:
    """Rule: a documented request is accepted, and answered as the documents say."""
    sandbox.configure(credits=10**9)
    operation = API[name]

    @given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    @shared_by_examples
    def check(case: Any) -> None:
        response = case.call(
            base_url=sandbox.base_url, headers={"authorization": f"Bearer {sandbox.api_key}"}
        )
        operation.validate_response(response)
        expected = (404,) if "record-info" in name else (200,)
        assert response.json()["code"] in expected, response.text

    check()


@pytest.mark.parametrize("name", SUBMITS)
def test_what_the_documents_do_not_allow_is_not_paid_for(sandbox: Sandbox, name: str) -> None:
    """Rule: a body outside the documents is refused, never with a crash.

    Names that the documents do not know, and nulls, count as left out.
    """
    sandbox.configure(credits=10**9)
    written = json.loads((FOLDER / "api.json").read_text())["paths"][API[name].path]["post"]
    schema = written["requestBody"]["content"]["application/json"]["schema"]
    allowed = schema.get("oneOf", [schema])
    known = set().union(*(one["properties"] for one in allowed))

    @given(API[name].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @shared_by_examples
    def check(case: Any) -> None:
        paid = sandbox.stats().submits
        response = case.call(
            base_url=sandbox.base_url, headers={"authorization": f"Bearer {sandbox.api_key}"}
        )
        assert response.status_code < 500, response.text
        if sandbox.stats().submits == paid:
            with pytest.raises(NanoBananaError):
                read_envelope(response.status_code, response.content)
            return
        asked = sandbox.submits()[-1].body
        body = {key: value for key, value in asked.items() if key in known and value is not None}
        assert jsonschema.Draft7Validator({"anyOf": allowed}).is_valid(body), asked

    check()


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], httpx.Response]]:
    """Have one receiver, which forwards to nowhere, answer a callback."""
    app = make_app(SECRET, spool=tmp_path_factory.mktemp("receiver") / "spool.db", sinks=[])
    path = f"/callbacks/{callback_token(SECRET)}"

    async def ask(body: bytes) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as http:
            return await http.post(path, content=body, headers=JSON)

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.running()),
    ):
        yield lambda body: portal.call(ask, body)


CALLBACK = CALLBACKS["POST /callbacks/{token}"]


@given(data=st.data())
@shared_by_examples
def test_a_documented_callback_is_kept(
    post: Callable[[bytes], httpx.Response], data: st.DataObject
) -> None:
    """Rule: what the documents describe is acknowledged."""
    case = data.draw(CALLBACK.as_strategy(generation_mode=GenerationMode.POSITIVE))
    response = post(as_bytes(case.body))
    assert (response.status_code, response.json()) == (200, {"status": "received"})


SURROUND = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["code", "msg", "data", "taskId", "info", "successFlag", "response"])
            | st.text(max_size=4),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(body=st.binary(max_size=300) | SURROUND.map(json.dumps).map(str.encode))
@shared_by_examples
def test_any_other_callback_is_refused_or_kept(
    post: Callable[[bytes], httpx.Response], body: bytes
) -> None:
    """Rule: whatever is posted is kept where it can be read, and refused with 400 where not."""
    response = post(body)
    try:
        read_callback(body)
    except NanoBananaError:
        assert response.status_code == 400, body
    else:
        assert response.status_code in (200, 400), body
