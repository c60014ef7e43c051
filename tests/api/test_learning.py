"""Generation times are learned for each kind of work, summed up, merged and remembered."""

import json
import logging
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobanana_blocks import PollPolicy, TaskDetails, TaskStatus
from nanobanana_blocks.api.kinds import kind_of
from nanobanana_blocks.api.learning import KindSchedule, KindSchedules
from nanobanana_blocks.api.schedule import PollSchedule
from nanobanana_blocks.api.summary import HALF_LIFE_SECONDS, LearnedSummary

NOW = 1_800_000_000.0
DAY = 86_400.0
STEADY = PollPolicy(jitter=0.0)


def follow(schedule: KindSchedule, finished: float) -> None:
    previous, age = 0.0, schedule.next_delay(0.0)
    while age < finished:
        schedule.observe_pending(previous, age)
        previous, age = age, age + schedule.next_delay(age)
    schedule.observe_completion(previous, age)


def taught(times: dict[str, float], count: int, seed: int = 1) -> KindSchedules:
    random = Random(seed)
    schedules = KindSchedules(STEADY, seed=seed)
    for _ in range(count):
        for kind, median in times.items():
            follow(schedules.of(kind), median * math.exp(random.gauss(0, 0.25)))
    return schedules


def first_delay(schedules: KindSchedules, kind: str | None) -> float:
    return schedules.of(kind).next_delay(0.0)


class TestKinds:
    @pytest.mark.parametrize(
        ("operation", "parameters", "kind"),
        [
            ("nanobanana_TEXTTOIAMGE", {"type": "TEXTTOIAMGE"}, "generate"),
            ("nanobanana_IMAGETOIAMGE", {"imageUrls": ["https://h/a.png"]}, "generate edit"),
            ("nano-banana-2_1k", {}, "generate-2 1K"),
            ("nano-banana-2_4k", {"resolution": "4K", "imageUrls": ["x"]}, "generate-2 4K edit"),
            ("nanobanana_pro", {"resolution": "2K"}, "generate-pro 2K"),
            ("Something New_2k", {}, "something-new 2K"),
            ("???", {}, "other"),
            (None, {"prompt": "a fig"}, "generate"),
            (None, {}, None),
        ],
    )
    def test_kind(self, operation: str | None, parameters: dict[str, object], kind: str) -> None:
        """The kind is endpoint, resolution and whether there are references, as far as is known."""
        details = TaskDetails(
            task_id="t",
            status=TaskStatus.GENERATING,
            operation_type=operation,
            parameters=parameters,
        )
        assert kind_of(details) == kind

    @given(operation=st.text(max_size=400), resolution=st.text() | st.integers())
    def test_any_text_gives_a_short_kind(self, operation: str, resolution: object) -> None:
        """Whatever the service writes, the kind is short, so that a summary stays small."""
        details = TaskDetails.model_construct(
            operation_type=operation, parameters={"resolution": resolution}
        )
        assert len(kind_of(details) or "") <= 60


class TestPerKind:
    def test_kinds_are_told_apart(self) -> None:
        """After a few of each, a short kind is polled soon and a long one late."""
        schedules = taught({"short": 8, "long": 60}, 25)
        assert first_delay(schedules, "short") < 8
        assert first_delay(schedules, "long") > 25

    def test_a_kind_never_seen_is_as_all_together(self) -> None:
        """A kind that was not seen borrows from the others."""
        schedules = taught({"a": 45}, 40)
        assert first_delay(schedules, "b") == pytest.approx(first_delay(schedules, None), rel=0.3)
        assert first_delay(schedules, "b") > 1.5 * first_delay(KindSchedules(STEADY), "b")

    def test_a_kind_seen_twice_is_not_worse_off(self) -> None:
        """Two tasks of a kind like the others do not lead it away from them."""
        schedules = taught({"a": 45}, 40)
        together = first_delay(schedules, None)
        for finished in (30.0, 70.0):
            follow(schedules.of("b"), finished)
        assert first_delay(schedules, "b") == pytest.approx(together, rel=0.3)

    def test_kinds_without_end_cost_no_memory(self) -> None:
        """Kinds beyond a bound are treated as all together."""
        schedules = KindSchedules(STEADY)
        assert len({id(schedules.of(str(number))) for number in range(1000)}) <= 30

    def test_short_tasks_keep_being_polled(self) -> None:
        """Tasks that end before the first poll do not lead to ever later first polls."""
        schedule = PollSchedule(PollPolicy(), seed=1)
        random = Random(1)
        for _ in range(600):
            schedule.observe_completion(0.0, 10 + random.random())
        assert schedule.next_delay(0.0) < 10


class TestSummary:
    def test_what_was_learned_is_remembered(self) -> None:
        """A run that begins with a summary polls each kind as the run before ended."""
        earlier = taught({"short": 8, "long": 60}, 25)
        text = earlier.learned().to_json(NOW)
        later = KindSchedules(STEADY, seed=1)
        later.go_on_from(LearnedSummary.from_json(text, NOW))
        for kind in ("short", "long"):
            assert first_delay(later, kind) == pytest.approx(first_delay(earlier, kind), rel=0.35)

    def test_a_kind_is_remembered_that_this_run_sees_late(self) -> None:
        """What a run does not use of a summary it gives back unharmed."""
        earlier = LearnedSummary.from_json(
            taught({"short": 8, "long": 60}, 25).learned().to_json(NOW), NOW
        )
        later = KindSchedules(STEADY, seed=1)
        later.go_on_from(earlier)
        follow(later.of("short"), 8)
        together = earlier.merged(later.learned())
        assert together.kinds["long"].passages == earlier.kinds["long"].passages
        assert set(later.learned().kinds) == {"short"}

    def test_two_runs_learn_as_one(self) -> None:
        """What two processes have learned is merged, in either order, to about the same."""
        one, two = taught({"a": 45}, 30, seed=1).learned(), taught({"a": 45}, 30, seed=2).learned()
        delays = []
        for merged in (one.merged(two), two.merged(one)):
            schedules = KindSchedules(STEADY, seed=1)
            schedules.go_on_from(LearnedSummary.from_json(merged.to_json(NOW), NOW))
            delays.append(first_delay(schedules, "a"))
        assert delays[0] == pytest.approx(delays[1], rel=0.1)
        assert delays[0] > 1.5 * first_delay(KindSchedules(STEADY), "a")

    def test_nothing_is_counted_twice(self) -> None:
        """What was taken out to be stored is not given again."""
        schedules = taught({"a": 45}, 10)
        schedules.go_on_from(schedules.learned())
        fresh = schedules.learned()
        assert sum(fresh.kinds["a"].passages) == 0
        assert max(map(abs, fresh.kinds["a"].candidates)) < 1e-9

    def test_it_fades(self) -> None:
        """Old learning weighs less, and in the end nothing."""
        text = taught({"a": 45}, 30).learned().to_json(NOW)
        fresh = LearnedSummary.from_json(text, NOW).kinds["a"].polls
        faded = LearnedSummary.from_json(text, NOW + HALF_LIFE_SECONDS).kinds["a"].polls
        assert faded <= 0.6 * fresh
        assert not LearnedSummary.from_json(text, NOW + 365 * DAY).kinds

    def test_a_clock_that_is_behind_does_no_harm(self) -> None:
        """A summary from the future is not older than new."""
        text = taught({"a": 45}, 10).learned().to_json(NOW)
        at_once = LearnedSummary.from_json(text, NOW)
        assert LearnedSummary.from_json(text, NOW - DAY).pool.polls == at_once.pool.polls

    def test_it_is_small(self) -> None:
        """A summary of many kinds is a small file."""
        schedules = taught({str(number): 10.0 + number for number in range(40)}, 3)
        assert len(schedules.learned().to_json(NOW)) < 100_000

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda _: b"",
            lambda text: b"\x00" * len(text),
            lambda _: b"[" * 100_000,
            lambda _: b'{"format": "a receipt"}',
            lambda text: text.replace(b'"version":1', b'"version":2'),
            lambda text: text.replace(b'"polls":', b'"poles":'),
            lambda text: text.replace(b'"pool":', b'"pool":1e9,"x":'),
            lambda text: text.replace(b'"passages":[', b'"passages":["a",'),
            lambda text: text.replace(b'"completions":[', b'"completions":[NaN,'),
            lambda text: text + b" " * 300_000,
        ],
    )
    def test_what_is_no_summary_is_ignored(
        self, damage: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Damaged, foreign and later content costs a line in the log and a little learning."""
        text = taught({"a": 45}, 10).learned().to_json(NOW)
        with caplog.at_level(logging.INFO):
            found = LearnedSummary.from_json(damage(text), NOW, where="s3://b/x")  # type: ignore[operator]
        assert found.is_empty
        assert not found.kinds
        assert "s3://b/x" in caplog.text

    @given(
        content=st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
        )
    )
    def test_any_json_is_read_or_ignored(self, content: object) -> None:
        """No content raises, also where it claims to be a summary."""
        LearnedSummary.from_json(json.dumps(content).encode(), NOW)
        claim = {"format": "nanobanana-generation-times", "version": 1, "written_at": content}
        claim |= {"all": content, "kinds": content}
        LearnedSummary.from_json(json.dumps(claim).encode(), NOW)
