"""A local stand-in for the NanoBanana API and its image host; it spends no credits.

A real HTTP server for demonstrations, tests and benchmarks: the API under `/api/v1/…`, images
under `/files/…`, and a control interface under `/sandbox/…`. It keeps everything in memory and
is no model of image quality, prices or load at the real service.

Where its behaviour comes from (*documented* by the service; *observed* by its users in the
wild; *assumed* by us, where neither says anything):

| behaviour | source |
|---|---|
| record-info's path, Bearer key, `successFlag` 0 to 3, envelope codes 200/400/401/404/500 | \
documented |
| HTTP 200 with the refusal in the body's `code`, `data` null | observed |
| null for fields that have no value yet; `paramJson` as text; `operationType` of `generate` | \
observed |
| `operationType` of `generate-2`, with its resolution | documented |
| `operationType` of `generate-pro` in the same form | assumed |
| an endpoint of `other_endpoints`: takes any fields, its name is its `operationType` | assumed |
| jobs: `jobs/createTask` with a model of `other_endpoints`, `jobs/recordInfo`, `chat/credit` | \
documented for a sister product |
| `file-stream-upload`: the form's fields, the answer's `downloadUrl` | \
documented for a sister product |
| the code of an unknown model; which states a job goes through, and for how long | assumed |
| times without a zone that read as UTC+8 | observed |
| a time that reads `24:00:00` (`time_style`) | observed |
| times in epoch milliseconds, an early `completeTime`, an unknown task as 422 or as null data | \
observed at sister products |
| unknown task: body code 404; no task id: body code 400 | documented |
| 401 and 402 messages, 422 `type can not be blank` and `Incorrect type`, 413 | observed |
| which value each endpoint accepts; required fields | documented |
| 422 for the other unacceptable values; their wording; 400 for a body that is not an object | \
assumed |
| `generate-pro` answers `message` instead of `msg` | documented |
| the same key in its refusals | assumed |
| 4 credits a `generate`; 8, 12, 18 by resolution for `generate-2` | observed |
| the same three prices for `generate-pro`; one price whatever `numImages`; no refunds | assumed |
| several images as a list in `resultImageUrl`, or in `resultImageUrls` or `resultUrls` | \
assumed, from what clients defend against |
| `originImageUrl` lives for 10 minutes, `resultImageUrl` for longer | documented |
| `resultImageUrl` lives for 14 days | observed at sister products |
| a failed task's `response` is null; its `errorCode` is 501 unless told otherwise | assumed |
| the image host refuses an empty User-Agent | assumed |
| the image host refuses Python's urllib by its default User-Agent | observed |
| the form of signed URLs; 403 once expired (404 and 410 on request); pictures smaller than 1K | \
assumed |
| generation takes 18 s in the median and 64 s at the 99th percentile, log-normally | assumed, \
from observed ranges |
| callbacks of `generate`: shape, codes 200/400/500/501, 15 s, retries | documented |
| callbacks of `generate-2` in record-info's shape, code 200 even for failures | documented |
| callbacks of `generate-pro` in the shape of `generate`'s | observed |
| one post and up to three retries, only HTTP 200 counts as received | our reading of the \
documents |
| pauses of 10, 30 and 60 s between those posts | assumed |
| a dummy `callBackUrl` (empty, or a `.invalid` host) is accepted and never contacted | observed, \
and assumed |
| rate limits (none unless configured); 429, 455 and 505 | observed at sister products |
| record-info codes 408 and 501 that end a task; balances with decimals (`credits_as`) | \
documented for sister products |
| URLs under `info` instead of `response` (`urls_as`) | observed |
| lists of URLs with gaps (`urls_as`); a task that record-info shows late (`invisible_seconds`) | \
assumed |
| pages from any origin may use API and images (CORS) | for the sandbox's users; the service's own \
headers are not known |
| unknown path: HTTP 404 with the framework's own JSON | observed |

How to play what is not a setting of its own:

| situation | how |
|---|---|
| one task that is refused with 402, 403, 408 or 501 | `Fault(kind="body-code", code=…, \
task_id=…)`; `http-status` without the envelope |
| a submit refused with 415, 422, 430, 433 or 451 | `Fault(kind="body-code", on="submit", code=…)` |
| a submit that creates its task and answers after 40 s | `Fault(kind="latency", on="submit", \
seconds=40, takes_effect=True)` |
| a callback that comes before record-info knows its task | `TaskPlan(seconds=1, \
invisible_seconds=20, callback_url=…)` |
| an idle connection that is closed just as a request comes | `Fault(kind="drop-kept-alive")` |
| an image host that never answers | `Fault(kind="latency", on="files", seconds=3600)` |
| an image host that falls silent within an image | `Fault(kind="drip", seconds=3600)` |
"""

from nanobanana_blocks.sandbox.server import (
    DEFAULT_PORT,
    Sandbox,
    SandboxControl,
    SandboxControlError,
    SandboxStartError,
    serve,
)
from nanobanana_blocks.sandbox.settings import (
    CONTENT_POLICY_MESSAGE,
    DEFAULT_API_KEY,
    GENERATION_FAILED_MESSAGE,
    SIGNATURE_MARK,
    CallbackWeather,
    Fault,
    RateLimit,
    SandboxSettings,
    SandboxStats,
    Submit,
    TaskPlan,
)

__all__ = [
    "CONTENT_POLICY_MESSAGE",
    "DEFAULT_API_KEY",
    "DEFAULT_PORT",
    "GENERATION_FAILED_MESSAGE",
    "SIGNATURE_MARK",
    "CallbackWeather",
    "Fault",
    "RateLimit",
    "Sandbox",
    "SandboxControl",
    "SandboxControlError",
    "SandboxSettings",
    "SandboxStartError",
    "SandboxStats",
    "Submit",
    "TaskPlan",
    "serve",
]
