"""What the API says is read into values or typed errors, whatever it says."""

import contextlib
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobanana_blocks import TaskDetails, TaskStatus, errors
from nanobanana_blocks.api.callback_bodies import read_callback
from nanobanana_blocks.api.envelope import read_envelope
from nanobanana_blocks.api.protocol import read_task_details
from nanobanana_blocks.api.times import read_time

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)
DATA_FIELDS = st.sampled_from(
    ["taskId", "paramJson", "completeTime", "response", "successFlag", "errorCode", "createTime"]
)
RESPONSE_FIELDS = st.sampled_from(
    ["resultImageUrl", "resultImageUrls", "resultUrls", "originImageUrl", "originImageUrls"]
)
DATA = st.dictionaries(DATA_FIELDS, JSON | st.dictionaries(RESPONSE_FIELDS, JSON)) | JSON
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={"code": st.sampled_from([200, 400, 401, 404, 429, 500]) | JSON, "data": DATA},
)


def read(http_status: int, body: bytes, task_id: str = "t1") -> TaskDetails:
    data = read_envelope(http_status, body, task_id=task_id)
    return read_task_details(data, task_id=task_id)


def sample(samples: Path, name: str) -> bytes:
    return (samples / f"{name}.json").read_bytes()


def record(**fields: object) -> bytes:
    data = {"taskId": "t1", "successFlag": 1, "response": {"resultImageUrl": "https://h/i.png"}}
    return json.dumps({"code": 200, "msg": "success", "data": data | fields}).encode()


def test_documented_success(samples: Path) -> None:
    """The documented example reads as a success with both URLs and nothing made up."""
    details = read(200, sample(samples, "documented-record-info-success"), "nanobanana_task_123456")
    assert details.status is TaskStatus.SUCCESS
    assert details.image_urls(0) == (
        "https://ourserver.com/image/result.jpg",
        "https://bfl.com/image/original.jpg",
    )
    assert (details.error_code, details.error_message) == (None, None)
    assert (details.created_at, details.completed_at, details.parameters) == (None, None, {})


def test_observed_success(samples: Path) -> None:
    """An observed success keeps its parameters, and its times read as UTC+8."""
    details = read(
        200, sample(samples, "observed-record-info-success"), "933259930a1fc855a4e3835b7c60a028"
    )
    assert details.parameters["prompt"] == "a banana"
    assert details.images_asked_for == 1
    assert details.origin_urls == ()
    assert details.completed_at == datetime(2026, 1, 6, 0, 17, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "task_id"),
    [
        ("observed-record-info-generating", "933259930a1fc855a4e3835b7c60a028"),
        ("sister-record-info-complete-time-while-generating", "t1"),
    ],
)
def test_only_the_flag_tells_the_end(samples: Path, name: str, task_id: str) -> None:
    """A task is generating for as long as its flag says so, whatever other fields hold."""
    assert read(200, sample(samples, name), task_id).status is TaskStatus.GENERATING


@pytest.mark.parametrize("flag", [None, 4, -1, True, "yes", [], 1.5, 10**30])
def test_unknown_flag_is_never_a_success(flag: object) -> None:
    """A flag that is not documented is a protocol error."""
    with pytest.raises(errors.ProtocolError, match="successFlag"):
        read(200, record(successFlag=flag))


@pytest.mark.parametrize(("flag", "status"), [(2, "CREATE_TASK_FAILED"), ("3", "GENERATE_FAILED")])
def test_failure_says_why(flag: object, status: str) -> None:
    """A failed task raises its reason and code, on request."""
    details = read(200, record(successFlag=flag, errorCode="501", errorMessage="It burnt"))
    with pytest.raises(errors.GenerationFailed, match="It burnt") as caught:
        details.raise_for_status()
    assert (caught.value.status, caught.value.error_code) == (status, 501)
    assert not caught.value.retryable


def test_answer_about_another_task_is_refused() -> None:
    """A success of another task is never taken for this one's."""
    with pytest.raises(errors.ProtocolError, match="another task"):
        read(200, record(taskId="t2"))


@pytest.mark.parametrize(
    "response",
    [
        {"resultImageUrl": ["https://h/1", "https://h/2"]},
        {"resultImageUrls": ["https://h/1", None, "https://h/2"]},
        {"resultUrls": [" https://h/1 ", "https://h/2", "https://h/1"]},
        {"resultImageUrl": "https://h/1", "resultImageUrls": ["https://h/1", "https://h/2"]},
        json.dumps({"resultUrls": ["https://h/1", "https://h/2"]}),
    ],
)
def test_several_images_in_any_spelling(response: object) -> None:
    """However several URLs are spelt, they become one ordered list without repetitions."""
    assert read(200, record(response=response)).result_urls == ("https://h/1", "https://h/2")


@pytest.mark.parametrize(
    ("response", "images"),
    [
        (
            {
                "resultImageUrls": [None, "https://h/r2"],
                "originImageUrls": ["https://o/1", "https://o/2"],
            },
            [("https://o/1",), ("https://h/r2", "https://o/2")],
        ),
        (
            {"resultImageUrls": ["https://h/r1", ""], "originImageUrls": [7, "https://o/2"]},
            [("https://h/r1",), ("https://o/2",)],
        ),
        (
            {
                "resultUrls": ["https://h/1", "https://h/1"],
                "originUrls": ["https://o/1", "https://o/2"],
            },
            [("https://h/1", "https://o/1"), ("https://o/2",)],
        ),
        (
            {"resultImageUrl": "https://h/1?sig=a", "resultImageUrls": ["https://h/1?sig=b"]},
            [("https://h/1?sig=a",)],
        ),
        (
            {
                "resultImageUrl": "https://h/2?sig=a",
                "resultImageUrls": ["https://h/1?sig=b", "https://h/2?sig=b"],
                "originImageUrls": ["https://o/1", "https://o/2"],
            },
            [("https://h/1?sig=b", "https://o/1"), ("https://h/2?sig=b", "https://o/2")],
        ),
        (
            {"resultUrls": ["https://h/i?id=1", "https://h/i?id=2"]},
            [("https://h/i?id=1",), ("https://h/i?id=2",)],
        ),
        (
            {"resultImageUrl": "https://h/1", "resultUrls": ["https://h/2"]},
            [("https://h/1",), ("https://h/2",)],
        ),
        (
            {"resultImageUrls": [None, "https://h/2"], "resultUrls": ["https://h/1"]},
            [("https://h/1",), ("https://h/2",)],
        ),
        ({"resultImageUrls": [None, "https://h/2"]}, [("https://h/2",)]),
        ({"resultImageUrls": [None, ""], "originImageUrls": []}, []),
    ],
)
def test_urls_of_an_image_are_paired_by_position(
    response: object, images: list[tuple[str, ...]]
) -> None:
    """Position says which result and origin URLs are of the same image; a gap moves nothing, and
    the same image under two fields counts once, however its URL is signed."""
    details = read(200, record(response=response))
    assert [details.image_urls(index) for index in range(details.image_count)] == images
    assert TaskDetails.model_validate_json(details.model_dump_json()) == details


@pytest.mark.parametrize("code", [None, 0, "0", "", False])
def test_no_error_code(code: object) -> None:
    """Null and zero, in any type, mean that there is no error."""
    assert read(200, record(errorCode=code)).error_code is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("2026-02-27 24:00:00", datetime(2026, 2, 27, 16, tzinfo=UTC)),
        ("2026-01-06T08:16:56Z", datetime(2026, 1, 6, 8, 16, 56, tzinfo=UTC)),
        ("2026-01-06 08:16:56.5+0100", datetime(2026, 1, 6, 7, 16, 56, tzinfo=UTC)),
        (1772150400000, datetime(2026, 2, 27, tzinfo=UTC)),
        ("1772150400000", datetime(2026, 2, 27, tzinfo=UTC)),
        ("2026-13-45 99:99:99", None),
        ("soon", None),
        (float("nan"), None),
        (10**40, None),
        (True, None),
        ([], None),
    ],
)
def test_times_are_read_leniently(raw: object, expected: datetime | None) -> None:
    """Every observed form of a time is read; any other is no time, and never an error."""
    assert read_time(raw) == expected


@pytest.mark.parametrize(
    ("http_status", "body", "error", "retryable"),
    [
        (200, {"code": 401, "msg": "You do not have access permissions"}, "Unauthorized", False),
        (401, {"code": 401, "msg": "Unauthorized"}, "Unauthorized", False),
        (403, "<html>", "Forbidden", True),
        (200, {"code": 403, "msg": "no"}, "Forbidden", True),
        (200, {"code": 402, "msg": "Please top up."}, "OutOfCredits", False),
        (200, {"code": 404, "msg": "Task not found"}, "UnknownTask", False),
        (200, {"code": 422, "msg": "recordInfo is null"}, "UnknownTask", False),
        (200, {"code": 200, "data": None}, "UnknownTask", False),
        (200, {"code": 422, "msg": "type can not be blank"}, "BadRequest", False),
        (200, {"code": 400, "msg": "Parameter error"}, "BadRequest", False),
        (200, {"code": 413}, "BadRequest", False),
        (200, {"code": 505}, "BadRequest", False),
        (200, {"code": 429, "message": "slow down"}, "RateLimited", True),
        (429, "slow down", "RateLimited", True),
        (200, {"code": 500, "msg": "Server exception"}, "ServerError", True),
        (200, {"code": "500"}, "ServerError", True),
        (200, {"code": 455}, "ServerError", True),
        (502, "<html>Bad gateway</html>", "ServerError", True),
        (503, {"code": 200, "data": {}}, "ServerError", True),
        (200, "<html>It works!</html>", "ProtocolError", False),
        (200, {"code": 777}, "ProtocolError", False),
        (200, {"code": 200, "data": [1]}, "ProtocolError", False),
        (200, [], "ProtocolError", False),
        (200, "", "ProtocolError", False),
        (301, "", "ProtocolError", False),
        (404, {"status": 404, "error": "Not Found", "path": "/x"}, "ProtocolError", False),
    ],
)
def test_refusals(http_status: int, body: object, error: str, retryable: bool) -> None:
    """HTTP status and envelope code together give each refusal its class."""
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    with pytest.raises(errors.APIError) as caught:
        read(http_status, raw)
    assert type(caught.value).__name__ == error
    assert caught.value.retryable is retryable


def test_refused_key_names_both_causes(samples: Path) -> None:
    """A refused key may be the key or its allow list: the message names both."""
    with pytest.raises(errors.Unauthorized, match="Check the key, and the key's IP allow list"):
        read(200, sample(samples, "observed-no-access"))


def test_unknown_path_points_at_the_base_url(samples: Path) -> None:
    """A 404 that is not the API's envelope is not "unknown task": the base URL is wrong."""
    with pytest.raises(errors.ProtocolError, match="Check the base URL"):
        read(404, sample(samples, "observed-unknown-path"))


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("documented-callback-success", TaskStatus.SUCCESS, None),
        ("documented-callback-content-policy", TaskStatus.GENERATE_FAILED, 400),
        ("documented-callback-generation-failed", TaskStatus.GENERATE_FAILED, 501),
        ("documented-callback-internal-error", TaskStatus.GENERATE_FAILED, 500),
        ("documented-callback-generate-2-failed", TaskStatus.GENERATE_FAILED, 501),
    ],
)
def test_documented_callbacks(
    samples: Path, name: str, status: TaskStatus, code: int | None
) -> None:
    """Both callback shapes are read; where flag and code are both there, the flag wins."""
    details = read_callback(sample(samples, name))
    assert (details.status, details.error_code) == (status, code)
    assert bool(details.result_urls) is (status is TaskStatus.SUCCESS)


@given(st.integers(100, 599), ENVELOPES | JSON)
def test_any_json_gives_a_value_or_a_typed_error(http_status: int, payload: object) -> None:
    """Whatever JSON comes, record-info and callbacks give details or a NanoBananaError."""
    body = json.dumps(payload).encode()
    for attempt in (lambda: read(http_status, body), lambda: read_callback(body)):
        with contextlib.suppress(errors.NanoBananaError):
            assert attempt().status in TaskStatus


@given(st.binary())
def test_any_bytes_give_a_typed_error(body: bytes) -> None:
    """What is not even JSON gives a ProtocolError that fits a line."""
    with pytest.raises(errors.ProtocolError) as caught:
        read(200, body)
    assert "\n" not in str(caught.value)


def test_deep_json_is_refused() -> None:
    """JSON nested too deep to read is a protocol error, not a crash."""
    with pytest.raises(errors.ProtocolError):
        read(200, b"[" * 200_000)


def test_error_texts_lose_signatures() -> None:
    """The signed part of a URL in the API's words does not reach an error's text."""
    body = record(successFlag=3, errorMessage="cannot read https://h/i.png?sig=SECRET&x=1, sorry")
    with pytest.raises(errors.GenerationFailed) as caught:
        read(200, body).raise_for_status()
    assert "SECRET" not in str(caught.value)
    assert "https://h/i.png?…" in str(caught.value)


def test_details_keep_urls_out_of_sight() -> None:
    """Details may be logged: their representation holds no URL."""
    assert "https" not in repr(read(200, record()))


def test_errors_survive_pickling() -> None:
    """Prefect pickles errors: class, text and attributes come through."""
    error = errors.ServerError("the API failed (500).", task_id="t1", code=500, retry_after=3.0)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)
    assert str(copy) == "task t1: the API failed (500)."
