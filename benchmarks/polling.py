"""Measures how soon the polling schedule detects finished tasks, and with how many requests.

Everything happens in simulated time, from fixed seeds: no network, no sleeping, no clock. Run
``python -m benchmarks.polling``; ``--smoke`` is a quick check that it works, ``--plot PATH`` also
draws the front for the documentation (needs matplotlib).

Columns: *requests* is the mean number of polls of a task after the first, the one that detects it
included; *lag* is the time from done to detected; *excess* is the mean lag divided by the least
mean lag that any schedule can reach with as many requests when it knows the distribution of
generation times (found by dynamic programming, so independent of the code under test).
"""

import heapq
import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain, pairwise, repeat
from pathlib import Path
from random import Random
from statistics import NormalDist, fmean
from typing import NamedTuple

from benchmarks.goals import at_least, at_most, begin
from nanobanana_blocks.api.schedule import PollPolicy, PollSchedule, Schedule

NORMAL = NormalDist()
LOG_DEVIATION = math.log(64 / 18) / NORMAL.inv_cdf(0.99)
REQUESTS = PollPolicy().requests_per_task
MAX_LAG, MAX_EXCESS = 2.25, 1.03
API_BUDGET = PollPolicy().requests_per_second


class Times(NamedTuple):
    """A distribution of generation times, in seconds."""

    name: str
    scale: float
    quantile: Callable[[float], float]
    finished_by: Callable[[float], float]


def lognormal(name: str, median: float, deviation: float = LOG_DEVIATION) -> Times:
    return Times(
        name,
        median,
        lambda share: median * math.exp(deviation * NORMAL.inv_cdf(share)),
        lambda age: NORMAL.cdf(math.log(age / median) / deviation) if age > 0 else 0.0,
    )


def mixed(name: str, fast: Times, slow: Times) -> Times:
    """Half of the tasks are fast, half are slow, and the two hardly overlap."""
    return Times(
        name,
        math.sqrt(fast.scale * slow.scale),
        lambda share: fast.quantile(2 * share) if share < 0.5 else slow.quantile(2 * share - 1),
        lambda age: (fast.finished_by(age) + slow.finished_by(age)) / 2,
    )


REFERENCE = lognormal("reference: median 18 s, p99 64 s", 18)
DOUBLE = lognormal("twice the assumed times", 36)
HALF = lognormal("half the assumed times", 9)
BIMODAL = mixed("mix of 8 s and 60 s", lognormal("", 8, 0.25), lognormal("", 60, 0.25))


class Cost(NamedTuple):
    requests: float
    lag: float
    lag_p95: float

    @classmethod
    def of(cls, polls: list[int], lags: list[float]) -> "Cost":
        return cls(fmean(polls), fmean(lags), sorted(lags)[int(0.95 * len(lags))])


def sample(times: Times, size: int) -> list[float]:
    """Evenly spaced quantiles, ascending: a sample without sampling noise."""
    return [times.quantile((rank + 0.5) / size) for rank in range(size)]


def cost_of_schedule(schedule: Schedule, finish_ages: list[float]) -> Cost:
    """What fresh tasks cost under a schedule that no longer learns."""
    polls, lags = [], []
    for finished in finish_ages:
        age, count = 0.0, 0
        while age < finished:
            age += schedule.next_delay(age)
            count += 1
        polls.append(count)
        lags.append(age - finished)
    return Cost.of(polls, lags)


def cost_of_ages(poll_ages: Iterable[float], finish_ages: list[float]) -> Cost:
    """What tasks cost when each is polled at the same, ascending ages."""
    polls, lags = [], []
    ages = enumerate(poll_ages, start=1)
    count, age = next(ages)
    for finished in finish_ages:
        while age < finished:
            count, age = next(ages)
        polls.append(count)
        lags.append(age - finished)
    return Cost.of(polls, lags)


def geometric(first: float, ratio: float) -> Iterator[float]:
    return accumulate(first * ratio**step for step in range(sys.maxsize))


def delayed(first: float, interval: float) -> Iterator[float]:
    return accumulate(chain([first], repeat(interval)))


class Optimum:
    """The least mean lag for a mean number of requests, when the distribution is known."""

    def __init__(self, times: Times) -> None:
        unit = times.scale / 40
        self._ages = [unit * step for step in range(240)]
        self._ages += [6 * times.scale * 1.03**step for step in range(60)]
        self._finished = [times.finished_by(age) for age in self._ages]
        trapezia = (
            (before + after) / 2 * (end - start)
            for (start, end), (before, after) in zip(
                pairwise(self._ages), pairwise(self._finished), strict=True
            )
        )
        self._area = [0.0, *accumulate(trapezia)]
        prices = (0.003, 0.006, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08, 0.12)
        self.front = sorted(self._cheapest(times.scale * price) for price in prices)

    def lag(self, requests: float) -> float:
        """Least mean lag at that many requests, interpolated on logarithmic axes."""
        points = [(math.log(polls), math.log(lag)) for polls, lag in self.front]
        x = math.log(requests)
        index = bisect_left(points, (x, -math.inf))
        index = min(max(index, 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[index - 1], points[index]
        return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))

    def _cheapest(self, price: float) -> tuple[float, float]:
        """Requests and mean lag of the schedule that minimises lag + price x requests."""
        last = len(self._ages) - 1
        value, following = [0.0] * (last + 1), [last] * (last + 1)
        for now in range(last - 1, -1, -1):
            reachable = range(now + 1, min(last, now + 110) + 1)
            costs = [self._lag_between(now, poll) + value[poll] for poll in reachable]
            best = min(range(len(costs)), key=costs.__getitem__)
            following[now] = reachable[best]
            value[now] = costs[best] + price * (1 - self._finished[now])
        now, requests, lag = 0, 0.0, 0.0
        while now < last:
            requests += 1 - self._finished[now]
            lag += self._lag_between(now, following[now])
            now = following[now]
        return requests, lag

    def _lag_between(self, start: int, end: int) -> float:
        elapsed = self._ages[end] - self._ages[start]
        return self._area[end] - self._area[start] - self._finished[start] * elapsed


class Lesson(NamedTuple):
    """What a schedule has seen before it is judged."""

    name: str
    completions: int
    tasks: int
    seconds_between_submits: float = 0.0
    requests_per_second: float = math.inf


def teach(schedule: PollSchedule, times: Times, lesson: Lesson, seed: int) -> None:
    """Wait for the lesson's tasks, in simulated time, until enough of them were seen finished."""
    random = Random(f"tasks {seed}")
    due: list[tuple[float, int, float]] = []
    submitted, finished = [], []
    for task in range(lesson.tasks):
        submitted.append(task * lesson.seconds_between_submits)
        finished.append(times.quantile(random.uniform(1e-9, 1 - 1e-9)))
        heapq.heappush(due, (submitted[task] + schedule.next_delay(0.0), task, 0.0))
    free_at, seen = 0.0, 0
    while due and seen < lesson.completions:
        when, task, previous = heapq.heappop(due)
        now = max(when, free_at)
        free_at = now + 1 / lesson.requests_per_second
        age = now - submitted[task]
        if age >= finished[task]:
            schedule.observe_completion(previous, age)
            seen += 1
        else:
            schedule.observe_pending(previous, age)
            heapq.heappush(due, (now + schedule.next_delay(age), task, age))


class Judgement(NamedTuple):
    """Costs averaged over seeds, and how far the seeds differ."""

    cost: Cost
    fewest_requests: float
    most_requests: float
    excess: float
    worst_excess: float


def judge(
    optimum: Optimum, times: Times, lessons: list[tuple[Times, Lesson]], seeds: int, size: int
) -> Judgement:
    finish_ages = sample(times, size)
    costs = []
    for seed in range(seeds):
        schedule = PollSchedule(PollPolicy(), seed=seed)
        for taught, lesson in lessons:
            teach(schedule, taught, lesson, seed)
        costs.append(cost_of_schedule(schedule, finish_ages))
    excesses = [cost.lag / optimum.lag(cost.requests) for cost in costs]
    mean = Cost(*(fmean(column) for column in zip(*costs, strict=True)))
    requests = [cost.requests for cost in costs]
    return Judgement(mean, min(requests), max(requests), fmean(excesses), max(excesses))


class Rival(NamedTuple):
    label: str
    cost: Cost


def rivals(finish_ages: list[float], coarse: int) -> dict[str, list[Rival]]:
    """Every schedule of the simple families that is compared with, by family."""
    fixed = [step / 4 for step in range(4, 121, coarse)]
    firsts = [step / 2 for step in range(1, 41, coarse)]
    ratios = [1 + step / 20 for step in range(1, 21, coarse)]
    waits = [step / 2 for step in range(2, 41, coarse)]
    return {
        "fixed interval": [
            Rival(f"{s:g} s", cost_of_ages(delayed(s, s), finish_ages)) for s in fixed
        ],
        "geometric back-off": [
            Rival(f"{first:g} s x {ratio:g}", cost_of_ages(geometric(first, ratio), finish_ages))
            for first in firsts
            for ratio in ratios
        ],
        "delay, then fixed (tuned to these very times)": [
            Rival(f"{first:g} s, then {s:g} s", cost_of_ages(delayed(first, s), finish_ages))
            for first in waits
            for s in fixed[4:]
        ],
    }


def report_reference(optimum: Optimum, size: int, coarse: int) -> "Front":
    finish_ages = sample(REFERENCE, size)
    adaptive = {
        requests: cost_of_schedule(
            PollSchedule(PollPolicy(requests_per_task=requests), seed=1),
            sample(REFERENCE, 6 * size),
        )
        for requests in (2.0, 2.5, 3.0, REQUESTS, 5.0, 6.0, 8.0)
    }
    ours = adaptive[REQUESTS]
    print(f"\nDefault policy, {REFERENCE.name}, nothing learned yet")
    print(f"  {'schedule':<46}{'requests':>9}{'mean lag':>9}{'p95':>7}{'excess':>8}")
    for requests, cost in adaptive.items():
        label = f"adaptive, {requests:g} requests" + (" (default)" if requests == REQUESTS else "")
        print_cost(label, cost, optimum)
    families = rivals(finish_ages, coarse)
    best_lags = {}
    for family, members in families.items():
        affordable = [rival for rival in members if rival.cost.requests <= ours.requests]
        best = min(affordable, key=lambda rival: rival.cost.lag)
        print_cost(f"best {family.split(' (')[0]}: {best.label}", best.cost, optimum)
        best_lags[family] = best.cost.lag
    documented = cost_of_schedule(PollSchedule(PollPolicy.documented()), finish_ages)
    print_cost("documented: every 30 s", documented, optimum)
    fixed = f"{best_lags['fixed interval']:.2f} s, best fixed interval"
    least = optimum.lag(ours.requests)
    at_most("requests after the first", ours.requests, 4.0)
    at_most("mean lag", ours.lag, MAX_LAG, " s", plain=fixed)
    at_most("mean lag / the least possible", ours.lag / least, MAX_EXCESS)
    at_most("p95 of the lag", ours.lag_p95, 4.5, " s")
    for family, lag in best_lags.items():
        text = f"best {family.split(' (')[0]} / our lag"
        if "tuned" in family:
            print(f"  for comparison: {text}: {lag / ours.lag:.2f}")
        else:
            at_least(text, lag / ours.lag, 1.0)
    return Front(list(adaptive.values()), ours, families, optimum.front)


def print_cost(label: str, cost: Cost, optimum: Optimum) -> None:
    low, high = optimum.front[0][0], optimum.front[-1][0]
    inside = low <= cost.requests <= high
    excess = f"{cost.lag / optimum.lag(cost.requests):8.2f}" if inside else f"{'-':>8}"
    print(f"  {label:<46}{cost.requests:9.2f}{cost.lag:9.2f}{cost.lag_p95:7.2f}{excess}")


def report_learning(optima: dict[Times, Optimum], seeds: int, size: int, many: int) -> None:
    one_by_one = Lesson("50 seen, a task every 3 s", 50, 60, 3.0)
    at_once = Lesson("50 seen of 1,000 at once", 50, 1000)
    queued = Lesson("  the same at 20 requests/s", 50, 1000, 0.0, API_BUDGET)
    long = Lesson(f"{many:,} seen, a task every 3 s", many, many + 50, 3.0)
    nothing = Lesson("nothing seen", 0, 0)
    print("\nLearning, judged on fresh tasks")
    print(
        f"  {'what was seen':<46}{'requests':>9}{'mean lag':>9}{'p95':>7}{'excess':>8}   over seeds"
    )
    judged = []
    for times, optimum in optima.items():
        print(f" {times.name}")
        for lesson in (nothing, one_by_one, at_once, queued, long):
            result = judge(optimum, times, [(times, lesson)], seeds, size)
            print_judgement(lesson.name, result)
            if times is DOUBLE and lesson.completions == 50:
                judged.append((lesson.name.strip(), result))
    print(f" a change: {many // 2} seen at the reference times, then twice those")
    settled = (REFERENCE, Lesson("", many // 2, many // 2 + 50, 3.0))
    for count in (50, 200):
        lesson = Lesson(f"{count} seen since the change", count, count + 50, 3.0)
        result = judge(optima[DOUBLE], DOUBLE, [settled, (DOUBLE, lesson)], seeds, size)
        print_judgement(lesson.name, result)
    for name, result in judged:
        at_most(f"twice the times, {name}: excess", result.excess, 1.15)
        requests = abs(result.cost.requests / REQUESTS - 1)
        at_most(f"twice the times, {name}: requests off their target", requests, 0.15)


def print_judgement(label: str, result: Judgement) -> None:
    requests, lag, p95 = result.cost
    print(
        f"  {label:<46}{requests:9.2f}{lag:9.2f}{p95:7.2f}"
        f"{result.excess:8.2f}   {result.fewest_requests:.1f}-{result.most_requests:.1f}"
        f" requests, excess <= {result.worst_excess:.2f}"
    )


class Front(NamedTuple):
    """What the picture shows."""

    adaptive: list[Cost]
    default: Cost
    families: dict[str, list[Rival]]
    optimum: list[tuple[float, float]]


def draw(front: Front, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "polling"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained", facecolor="white")
    styles = (("o", "#c2410c", 28, 1.0), ("s", "#6b7280", 10, 0.5))
    for (family, members), (marker, colour, size, alpha) in zip(
        front.families.items(), styles, strict=False
    ):
        axes.scatter(
            [rival.cost.requests for rival in members],
            [rival.cost.lag for rival in members],
            s=size,
            marker=marker,
            color=colour,
            alpha=alpha,
            linewidths=0,
            label=family,
        )
    axes.plot(*zip(*front.optimum, strict=True), "--", color="#111827", label="exact optimum")
    axes.plot(
        [cost.requests for cost in front.adaptive],
        [cost.lag for cost in front.adaptive],
        "-D",
        color="#1d4ed8",
        markersize=5,
        label="adaptive",
    )
    axes.annotate(
        f"default: {front.default.lag:.1f} s at {front.default.requests:.1f} requests",
        (front.default.requests, front.default.lag),
        xytext=(12, -42),
        textcoords="offset points",
        ha="right",
        color="#1d4ed8",
        arrowprops={"arrowstyle": "->", "color": "#1d4ed8"},
    )
    axes.set(
        xlim=(1.5, 10),
        ylim=(0, 10),
        xlabel="requests per task after the first poll (mean)",
        ylabel="seconds from done to detected (mean)",
        title="Generation times: lognormal, median 18 s, p99 64 s",
    )
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=150, metadata=metadata)
    print(f"\nDrew {path}")


def main() -> None:
    options = begin(__doc__, "fewer rows, and coarse")
    seeds, size, coarse, many = (1, 500, 8, 80) if options.smoke else (5, 3000, 1, 1000)
    studied = (REFERENCE, DOUBLE) if options.smoke else (REFERENCE, DOUBLE, HALF, BIMODAL)
    optima = {times: Optimum(times) for times in studied}
    front = report_reference(optima[REFERENCE], size, coarse)
    report_learning(optima, seeds, size, many)
    if options.plot:
        draw(front, options.plot)


if __name__ == "__main__":
    main()
