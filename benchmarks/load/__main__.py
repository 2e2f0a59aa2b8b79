"""`make bench-load`, or one of its databases: `python -m benchmarks.load sqlite`, for some seconds a phase."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks.load.client import Load, Outcome
from benchmarks.load.world import CREATE, Kind, World, run_world
from benchmarks.scale.row import Row

KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")
POST_BOUND, GET_BOUND = 0.4, 0.6
"""Of what an ingress that does nothing answers."""
POST_P99_S, GET_P99_S, OVERLOAD_P99_S = 0.15, 0.05, 1.0
POLLERS, STREAMS = 100, 30
CONNECTIONS, MOST_CONNECTIONS = 16, 256


def main() -> None:
    """Print the table; exit with 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[], help="by default both")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each phase takes")
    given = parser.parse_args()
    print("| what | bound | measured | |\n|---|---|---|---|", flush=True)
    missed = 0
    for kind in given.kinds or KINDS:
        with run_world(kind) as world:
            for row in measure(world, given.seconds):
                print(f"| {kind}: {str(row)[2:]}", flush=True)
                missed += row.good is False
    if missed:
        raise SystemExit(f"{missed} bounds are missed")


def measure(world: World, for_s: float) -> Iterator[Row]:
    """The rows of one database; each phase takes `for_s` seconds."""
    created: list[str] = []

    def nothing() -> tuple[float, float]:
        post = Load("post", "POST", ["/nothing/"], CREATE, CONNECTIONS)
        get = Load("get", "GET", ["/nothing/"], "", CONNECTIONS)
        return (
            _per_second(world.load(for_s / 2, post)["post"], for_s / 2),
            _per_second(world.load(for_s / 2, get)["get"], for_s / 2),
        )

    def creates(rate: float | None = None, connections: int = CONNECTIONS) -> Load:
        return Load("create", "POST", ["/v1/videos"], CREATE, connections, rate)

    created += world.load(2.0, creates())["create"].ids  # warms both replicas up
    before = nothing()
    outcome = world.load(for_s, creates())["create"]
    created += outcome.ids
    posts = _per_second(outcome, for_s)
    paths = [f"/v1/videos/{each}" for each in created[-POLLERS:]]
    polls = Load("poll", "GET", paths, "", POLLERS, float(POLLERS))
    streams = [f"{path}/events" for path in paths[:STREAMS]]
    reads = world.load(for_s, Load("get", "GET", paths, "", CONNECTIONS), polls, streams=streams, settle_s=1.0)
    gets = _per_second(reads["get"], for_s) + _per_second(reads["poll"], for_s)
    after = nothing()
    post_0, get_0 = ((each + other) / 2 for each, other in zip(before, after, strict=True))

    yield Row("an ingress that does nothing", "none", f"{post_0:.0f} POST/s, {get_0:.0f} GET/s", None)
    ratio = posts / post_0
    yield Row("accepted POST/s", f">= {POST_BOUND} of it", f"{posts:.0f}/s: {ratio:.2f}", ratio >= POST_BOUND)
    ratio = gets / get_0
    what = f"GET/s, {POLLERS} polling clients and {STREAMS} event streams among them"
    yield Row(what, f">= {GET_BOUND} of it", f"{gets:.0f}/s: {ratio:.2f}", ratio >= GET_BOUND)

    outcome = world.load(for_s, creates(posts / 2))["create"]
    created += outcome.ids
    p99_s = _p_s(99, outcome.accepted)
    good = p99_s <= POST_P99_S and set(outcome.statuses) == {"200"}
    yield Row("POST at half that rate", f"p99 <= {POST_P99_S * 1000:.0f} ms", _said(outcome), good)
    fewer = Load("poll", "GET", paths, "", POLLERS, min(float(POLLERS), gets / 2))
    more = Load("get", "GET", paths, "", CONNECTIONS, max(gets / 2 - POLLERS, 1.0))
    reads = world.load(for_s, fewer, more, streams=streams, settle_s=1.0)
    outcome = _both(reads["get"], reads["poll"])
    p99_s = _p_s(99, outcome.accepted)
    good = p99_s <= GET_P99_S and set(outcome.statuses) == {"200"}
    yield Row("GET at half that rate", f"p99 <= {GET_P99_S * 1000:.0f} ms", _said(outcome), good)

    probes = Load("probe", "GET", ["/healthz", "/readyz"], "", 4, 4.0)
    cancels = Load("cancel", "POST", [f"/v1/videos/{each}/cancel" for each in created[:1000]], "", 4, 4.0)
    flood = world.load(
        for_s, creates(4 * posts, MOST_CONNECTIONS), polls, probes, cancels, streams=streams, settle_s=1.0
    )
    created += flood["create"].ids
    for name, what in (("create", "POST at four times that rate"), ("poll", "the polling clients meanwhile"),
                       ("probe", "probes meanwhile"), ("cancel", "cancels meanwhile")):  # fmt: skip
        outcome = flood[name]
        allowed = {"200", "overloaded"} if name == "create" else {"200"}
        good = _p_s(99, outcome.seconds) <= OVERLOAD_P99_S and set(outcome.statuses) <= allowed
        yield Row(what, "99% within 1 s, no error but refusals", _said(outcome), good)
    beside = Load("nothing", "POST", ["/nothing/"], CREATE, MOST_CONNECTIONS, 4 * posts)
    outcome = world.load(for_s, beside, polls, streams=streams, settle_s=1.0)["nothing"]
    yield Row("the same flood where nothing is done", "none", _said(outcome), None)
    lost = set(created) - world.stored()
    yield Row("answered with 200 and not stored", "0", f"{len(lost)} of {len(created)}", not lost)


def _per_second(outcome: Outcome, for_s: float) -> float:
    return len(outcome.accepted) / for_s


def _p_s(percent: int, seconds: list[float]) -> float:
    """The time within which so many percent of the requests were answered."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else float("inf")


def _both(first: Outcome, second: Outcome) -> Outcome:
    names = {*first.statuses, *second.statuses}
    statuses = {name: first.statuses.get(name, 0) + second.statuses.get(name, 0) for name in names}
    return Outcome(statuses, first.seconds + second.seconds, first.accepted + second.accepted)


def _said(outcome: Outcome) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcome.statuses.items()))
    median_s, p99_s = (_p_s(percent, outcome.seconds) for percent in (50, 99))
    return f"p50 {median_s * 1000:.0f} ms, p99 {p99_s * 1000:.0f} ms; {counts}"


if __name__ == "__main__":
    main()
