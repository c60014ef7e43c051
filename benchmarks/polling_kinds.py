"""Measures how soon tasks are detected whose kind, age or place in a queue can be known.

As `benchmarks.polling`, in simulated time and from fixed seeds, but through the state machine of a
wait and the planner of its polls. Ratios are mean lags divided by the least mean lag that any
schedule can reach with as many requests when it knows each kind's distribution of generation times.

Run ``python -m benchmarks.polling_kinds``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import heapq
import math
from datetime import UTC, datetime
from itertools import accumulate
from random import Random
from statistics import fmean, median
from typing import NamedTuple

from benchmarks.goals import at_most, begin
from benchmarks.polling import Optimum, Times, cost_of_schedule, lognormal, sample
from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.learning import KindSchedules
from nanobanana_blocks.api.planner import PollPlanner
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.api.wait_state import PollAgain, Wait

NOW = 1_800_000_000.0
TWO_KINDS = (lognormal("8 s", 8, 0.25), lognormal("60 s", 60, 0.25))
THREE_KINDS = (lognormal("8 s", 8, 0.35), lognormal("25 s", 25, 0.35), lognormal("80 s", 80, 0.35))
ONE_KIND = (lognormal("45 s", 45, 0.35),)
EXPECTED = lognormal("18 s", 18)


class Task(NamedTuple):
    kind: Times
    submitted: float
    finished: float


class Detected(NamedTuple):
    task: Task
    requests: int
    lag: float


def draw_tasks(kinds: tuple[Times, ...], count: int, random: Random) -> list[Task]:
    """One task every 3 s, of the kinds in turn."""
    return [
        Task(
            kinds[number % len(kinds)],
            3.0 * number,
            kinds[number % len(kinds)].quantile(random.uniform(1e-9, 1 - 1e-9)),
        )
        for number in range(count)
    ]


def details_of(task: Task, now: float, *, tells_times: bool) -> TaskDetails:
    """What record-info says of a task at a time; its own times are whole seconds."""
    done_at = task.submitted + task.finished
    is_done = now >= done_at
    return TaskDetails.model_construct(
        task_id="t",
        status=TaskStatus.SUCCESS if is_done else TaskStatus.GENERATING,
        result_urls=("https://h/i.png",) if is_done else (),
        origin_urls=(),
        urls_by_image=(),
        by_code=False,
        created_at=_whole(task.submitted) if tells_times else None,
        completed_at=_whole(done_at) if tells_times and is_done else None,
        answered_at=_whole(now) if tells_times else None,
    )


def _whole(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + math.floor(seconds), UTC)


def run_tasks(
    schedules: KindSchedules,
    tasks: list[Task],
    completions: int,
    *,
    begun: list[float] | None = None,
    tells_times: bool = True,
) -> list[Detected]:
    """Wait for tasks in simulated time, from their submits or when they are `begun`."""
    starts = begun or [task.submitted for task in tasks]
    waits = [Wait("t", started=start, timeout=1e6) for start in starts]
    due = [(start, number) for number, start in enumerate(starts)]
    heapq.heapify(due)
    detected: list[Detected] = []
    while due and len(detected) < completions:
        now, number = heapq.heappop(due)
        task, wait = tasks[number], waits[number]
        wait.begin_poll(now)
        verdict = wait.after_answer(
            details_of(task, now, tells_times=tells_times), now, schedules.of(task.kind.name)
        )
        if isinstance(verdict, PollAgain):
            heapq.heappush(due, (verdict.scheduled, number))
        else:
            lag = now - task.submitted - task.finished
            detected.append(Detected(task, wait.polls - 1, lag))
    return detected


def excess_of_kinds(
    schedules: KindSchedules, kinds: tuple[Times, ...], optima: dict[Times, Optimum], size: int
) -> float:
    """The mean over kinds of what fresh tasks cost, against the optimum that knows the kinds."""
    ratios = []
    for kind in kinds:
        schedule = schedules.of(kind.name)
        cost = cost_of_schedule(schedule, sample(kind, size))
        ratios.append(cost.lag / optima[kind].lag(cost.requests))
    return fmean(ratios)


def report_kinds(seeds: int, size: int) -> None:
    """Kinds side by side, after 50 completions of all together."""
    print("\nKinds side by side, after 50 completions, judged on fresh tasks of each kind")
    for name, kinds, most in (
        ("8 s and 60 s", TWO_KINDS, 1.10),
        ("8, 25 and 80 s", THREE_KINDS, 1.15),
    ):
        optima = {kind: Optimum(kind) for kind in kinds}
        ratios = []
        for seed in range(seeds):
            schedules = KindSchedules(PollPolicy(), seed=seed)
            run_tasks(schedules, draw_tasks(kinds, 120, Random(seed)), 50)
            ratios.append(excess_of_kinds(schedules, kinds, optima, size))
        at_most(f"kinds of {name}: excess", fmean(ratios), most)
        print(f"  worst seed {max(ratios):.2f}")


def remembered(kinds: tuple[Times, ...], completions: int, seed: int) -> LearnedSummary:
    """What an account has kept after so many completions in earlier runs of ten tasks each."""
    stored = LearnedSummary()
    random = Random(f"earlier {seed}")
    for run in range(completions // 10):
        schedules = KindSchedules(PollPolicy(), seed=seed * 1000 + run)
        schedules.go_on_from(stored)
        run_tasks(schedules, draw_tasks(kinds, 10, random), 10)
        stored = LearnedSummary.from_json(stored.merged(schedules.learned()).to_json(NOW), NOW)
    return stored


def report_memory(seeds: int, size: int) -> None:
    """Runs of one and of twenty tasks, where earlier runs have seen 50 of their kind."""
    print("\nRemembered between runs: 50 completions of the kind in five earlier runs")
    for kinds in (ONE_KIND, (EXPECTED,)):
        optimum = {kind: Optimum(kind) for kind in kinds}
        for tasks, most in ((1, 1.10), (20, 1.05)):
            forgetful, mindful = [], []
            for seed in range(seeds):
                for known, ratios in ((None, forgetful), (remembered(kinds, 50, seed), mindful)):
                    schedules = KindSchedules(PollPolicy(), seed=seed)
                    if known:
                        schedules.go_on_from(known)
                    if tasks > 1:
                        run_tasks(
                            schedules, draw_tasks(kinds, tasks, Random(f"now {seed}")), tasks // 2
                        )
                    ratios.append(excess_of_kinds(schedules, kinds, optimum, size))
            at_most(
                f"remembered, {kinds[0].name}, run of {tasks}: excess",
                fmean(mindful),
                most,
                plain=f"{fmean(forgetful):.2f} without memory",
            )
            print(f"  worst seed {max(mindful):.2f}")


SERVED = lognormal("33 s each", 33, 0.25)
AT_ONCE = 30


def queue(count: int, random: Random) -> list[Task]:
    """Tasks that are worked on one after the other, in the order of their submits."""
    times = [SERVED.quantile(random.uniform(1e-9, 1 - 1e-9)) for _ in range(count)]
    return [Task(SERVED, 0.0, ended) for ended in accumulate(times)]


def run_with(planner: PollPlanner, tasks: list[Task], *, in_turn: bool = True) -> list[Detected]:
    """Wait for tasks as the waiter does; `in_turn`: with what it knows of queues."""
    waits = [Wait(str(n), started=task.submitted, timeout=1e6) for n, task in enumerate(tasks)]
    due = {number: task.submitted for number, task in enumerate(tasks)}
    detected = []
    while due:
        number = min(due, key=due.__getitem__)
        now, task, wait = due.pop(number), tasks[number], waits[number]
        wait.begin_poll(now)
        details = details_of(task, now, tells_times=True)
        if in_turn:
            verdict, others = planner.after_answer(wait, details, now)
        else:
            verdict = wait.after_answer(details, now, planner.schedules.of(None))
            others = []
        if isinstance(verdict, PollAgain):
            due[number] = verdict.scheduled
        else:
            planner.forget(wait)
            lag = now - task.submitted - task.finished
            detected.append(Detected(task, wait.polls - 1, lag))
        for other in others:
            other.scheduled = due[int(other.task_id)] = planner.next_due(other, now)
    return detected


def report_queue(seeds: int) -> None:
    """A service that works on one task after the other, 30 at once: medians over seeds."""
    print(f"\nA service that works on one task after the other, {SERVED.name}, {AT_ONCE} at once")
    best = Optimum(SERVED).lag(PollPolicy().requests_per_task)
    results = {}
    for name in ("each by its own age", "in turn", "in turn, the second such run"):
        lags, requests = [], []
        for seed in range(seeds):
            planner = PollPlanner(PollPolicy(), seed=seed)
            random = Random(f"queue {seed}")
            if "second" in name:
                earlier = PollPlanner(PollPolicy(), seed=seed)
                run_with(earlier, queue(AT_ONCE, Random(f"first {seed}")))
                planner.go_on_from(earlier.learned())
            found = run_with(planner, queue(AT_ONCE, random), in_turn="turn" in name)
            lags.append(fmean(task.lag for task in found) / best)
            requests.append(fmean(task.requests for task in found))
        results[name] = median(lags), median(requests)
        print(
            f"  {name:<30}{_spread(requests)} requests; lag {_spread(lags)} x the {best:.2f} s of "
            "who knows the queue"
        )
    lag, requests = results["in turn"]
    lag_by_age, today = results["each by its own age"]
    by_age = f"{lag_by_age:.1f}, each by its age"
    at_most("tasks in turn: lag / that of who knows the queue", lag, 1.3, plain=by_age)
    at_most("tasks in turn: requests", requests, today, plain=f"{today:.1f}")


def _spread(figures: list[float]) -> str:
    return f"{median(figures):.2f} (median; {min(figures):.2f} to {max(figures):.2f})"


STREAMS = ((1.8, 0.5, 0.3), (5.0, 0.5, 0.5), (18.0, 0.2, 0.2), (18.0, 0.5, 3.0), (60.0, 0.2, 0.5))
"""Independent tasks: their median, the deviation of its logarithm, and seconds between submits."""


def report_streams(seeds: int) -> None:
    """Tasks that are worked on at once are not to be taken for a queue."""
    print("\nStreams of independent tasks: the lag, against that of who does not think of queues")
    ratios = []
    for median_seconds, deviation, spacing in STREAMS:
        times = lognormal("", median_seconds, deviation)
        lags = []
        for in_turn in (True, False):
            found = []
            for seed in range(seeds):
                random = Random(f"stream {seed}")
                tasks = [
                    Task(times, spacing * n, times.quantile(random.uniform(1e-9, 1 - 1e-9)))
                    for n in range(120)
                ]
                planner = PollPlanner(PollPolicy(), seed=seed)
                found += run_with(planner, tasks, in_turn=in_turn)
            lags.append(fmean(task.lag for task in found))
        ratios.append(lags[0] / lags[1])
        name = f"median {median_seconds:g} s, one every {spacing:g} s"
        print(f"  {name:<34}{lags[0]:6.2f} s, {lags[1]:6.2f} s")
    at_most("streams taken for queues: lag / lag without, worst", max(ratios), 1.1)


def report_age(seeds: int, size: int) -> None:
    """Tasks that are waited for from a random age on."""
    print("\nReattached at a random age, against waiting from the start")
    times = lognormal("", 45, 0.35)
    lags: dict[str, list[float]] = {"start": [], "age": [], "blind": []}
    requests: dict[str, list[float]] = {how: [] for how in lags}
    for seed in range(seeds):
        random = Random(seed)
        for how, measured in lags.items():
            schedules = KindSchedules(PollPolicy(), seed=seed)
            run_tasks(schedules, draw_tasks((times,), 120, Random(seed)), 100)
            tasks = [Task(times, 0.0, finished) for finished in sample(times, size)]
            ages = [random.uniform(0.1, 0.9) * task.finished for task in tasks]
            begun = [0.0] * size if how == "start" else ages
            found = run_tasks(schedules, tasks, size, begun=begun, tells_times=how != "blind")
            measured.append(fmean(task.lag for task in found))
            requests[how].append(fmean(task.requests for task in found))
    start, age, blind = (fmean(lags[how]) for how in ("start", "age", "blind"))
    print(
        f"  lag {age:.2f} s; {start:.2f} s from the start; requests after the first: "
        f"{fmean(requests['age']):.1f}, {fmean(requests['start']):.1f} from the start, "
        f"{fmean(requests['blind']):.1f} without the age"
    )
    at_most(
        "reattached: lag / that from the start",
        age / start,
        1.15,
        plain=f"{blind / start:.2f} without the age",
    )


def report_hardly_seen(seeds: int, size: int) -> None:
    """A kind that was seen twice, beside one that was seen often; today all share one schedule."""
    print("\nA kind seen twice, beside 48 completions of another, judged on fresh tasks of it")
    often, rarely = lognormal("often", 45, 0.35), lognormal("rarely", 30, 0.35)
    optimum = Optimum(rarely)
    own, pooled = [], []
    for seed in range(seeds):
        schedules, random = KindSchedules(PollPolicy(), seed=seed), Random(seed)
        run_tasks(schedules, draw_tasks((often,), 110, random), 48)
        run_tasks(schedules, draw_tasks((rarely,), 2, random), 2)
        for kind, ratios in ((rarely.name, own), (None, pooled)):
            cost = cost_of_schedule(schedules.of(kind), sample(rarely, size))
            ratios.append(cost.lag / optimum.lag(cost.requests))
    at_most(
        "a kind seen twice: excess - that of one schedule for all",
        fmean(own) - fmean(pooled),
        0.02,
        plain=f"excess {fmean(pooled):.2f}, all kinds as one",
    )


def main() -> None:
    smoke = begin(__doc__, "few seeds").smoke
    seeds, size = (1, 200) if smoke else (12, 1500)
    report_kinds(seeds, size)
    report_hardly_seen(seeds, size)
    report_memory(seeds, size)
    report_age(min(seeds, 4), size)
    report_queue(seeds)
    report_streams(min(seeds, 3))


if __name__ == "__main__":
    main()
