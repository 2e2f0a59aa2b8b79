"""What a command says while the service that it has started loads, against an API that answers like one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve as ray_serve
from ray.serve.schema import ApplicationStatus
from rich.console import Console

from cli import fetching, serve, service
from cli.fetching import fetch_all
from cli.service import StartFailed
from pipelines.card import ModelCard
from pipelines.catalogue import get_card
from pipelines.errors import WeightsUnavailable

Answers = list[tuple[int, dict[str, Any]] | None]
"""What /readyz answers, one after the other; the last one for ever. None is no answer of ours."""


class Api:
    """GET /readyz."""

    def __init__(self, answers: Answers) -> None:
        self.left = answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                answer = self.left.pop(0) if len(self.left) > 1 else self.left[0]
                status, body = (
                    (404, b"Path not found") if answer is None else (answer[0], json.dumps(answer[1]).encode())
                )
                handler.send_response(status)
                handler.send_header("content-length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Api]]:
    running: list[Api] = []

    def run(*answers: Any) -> Api:
        running.append(Api(list(answers)))
        return running[-1]

    monkeypatch.setattr(ray_serve, "status", lambda: SimpleNamespace(applications={}))
    monkeypatch.setattr("cli.service.time.sleep", lambda _: None)
    yield run
    for each in running:
        each.server.shutdown()
        each.server.server_close()


def answer(status: str, *waiting_for: str, **cannot_start: str) -> tuple[int, dict[str, Any]]:
    code = 200 if status == "ready" else 503
    return code, {"status": status, "waiting_for": list(waiting_for), "cannot_start": cannot_start}


def wait(
    api: Api, *, keep_waiting: bool = False, on_ready: Callable[[str], None] = lambda _: None
) -> tuple[list[list[str]], list[str]]:
    """What was told of stages that load, and of stages that cannot start."""
    waiting: list[list[str]] = []
    failed: list[str] = []
    service._wait_until_ready(api.url, waiting.append, on_ready, failed.append, keep_waiting)
    return waiting, failed


def test_a_service_is_ready_when_it_says_so(api: Callable[..., Api]) -> None:
    waiting, failed = wait(api(None, answer("loading", "A", "B"), answer("loading", "B"), answer("ready")))
    assert (waiting, failed) == ([["Ray Serve"], ["A", "B"], ["B"]], [])


def test_each_stage_is_told_once_it_takes_calls_but_not_one_that_cannot_start(api: Callable[..., Api]) -> None:
    answers = (
        None, answer("loading", "A", "B", "C"), answer("loading", "B", "C"), None, answer("loading", "C", B="broken"),
        answer("ready", B="broken"),
    )  # fmt: skip
    ready: list[str] = []
    wait(api(*answers), on_ready=ready.append)
    assert ready == ["Ray Serve", "A", "C"]


def test_each_sentence_is_told_once_and_as_soon_as_it_is_known(api: Callable[..., Api]) -> None:
    loading, also = answer("loading", "A", A="broken"), answer("loading", A="broken", B="broken", C="gone")
    waiting, failed = wait(api(loading, loading, also, answer("ready", A="broken", D="late")))
    assert failed == ["broken", "gone", "late"]
    assert len(waiting) == 3


def test_where_no_model_can_be_served_it_ends_with_all_sentences(api: Callable[..., Api]) -> None:
    with pytest.raises(StartFailed) as ended:
        wait(api(answer("loading", "A"), answer("unavailable", A="broken", B="broken", C="gone")))
    assert ended.value.message == "no model can be served: broken; gone"


def given_up(message: str) -> Callable[[], Any]:
    application = SimpleNamespace(status=ApplicationStatus.DEPLOY_FAILED, message=message)
    return lambda: SimpleNamespace(applications={"kinoray": application})


def test_an_api_that_does_not_come_up_is_an_error(api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_serve, "status", given_up("the Api raised"))
    with pytest.raises(StartFailed, match="could not be deployed: the Api raised"):
        wait(api(None))


def test_what_serve_has_given_up_does_not_end_it_while_other_models_load(
    api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_serve, "status", given_up("a Denoiser died"))
    assert wait(api(answer("loading", "B", A="died"), answer("ready", A="died")))[1] == ["died"]


def test_it_does_not_wait_for_ever(api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "START_TIMEOUT_S", -1)
    with pytest.raises(StartFailed, match="still waiting for A, B"):
        wait(api(answer("loading", "A", "B")))


def test_serve_waits_as_long_as_stages_load(api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes longer than a service has to answer in the first place."""
    now = iter(range(0, 10_000, service.START_TIMEOUT_S - 10))
    monkeypatch.setattr("cli.service.time.monotonic", lambda: next(now))
    loading = [answer("loading", "A", A="slow")] * 5
    assert wait(api(*loading, answer("ready")), keep_waiting=True) == ([["A"]] * 5, ["slow"])
    with pytest.raises(StartFailed, match="still waiting for A"):
        wait(api(*loading, answer("ready")))
    with pytest.raises(StartFailed, match="still waiting for Ray Serve"):
        wait(api(answer("loading", "A"), None, None, None, answer("ready")), keep_waiting=True)


def test_what_still_loads_is_named_when_nothing_has_been_said_for_a_while() -> None:
    said: list[tuple[float, str]] = []
    now = 0.0
    loading = serve.Loading(lambda sentence: said.append((now, sentence)), lambda: now)
    for second, stages in ((1, ["Ray Serve"]), (14, ["A", "B"]), (15, ["A", "B"]), (16, ["A", "B"])):
        now = second
        loading.waiting(stages)
    now = 20
    loading.ready("A")
    for second in (31, 34, 36):
        now = second
        loading.waiting(["B"])
    assert said == [
        (15, "still loading after 15 s: A, B"), (20, "A is ready after 20 s"), (36, "still loading after 36 s: B")
    ]  # fmt: skip


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Models whose weights cannot be fetched."""
    models: set[str] = set()

    def prefetch(card: ModelCard) -> None:
        if card.id in models:
            raise WeightsUnavailable(f"{card.id}: broken")

    monkeypatch.setattr(fetching, "prefetch", prefetch)
    return models


def test_serve_goes_on_without_a_model_that_cannot_be_fetched(broken: set[str]) -> None:
    said: list[str] = []
    cards = [get_card("ltx-tiny"), get_card("svd-tiny")]
    fetch_all(cards, said.append)
    assert said == []
    broken.add("ltx-tiny")
    fetch_all(cards, said.append)
    assert said == ["ltx-tiny: broken"]
    broken.add("svd-tiny")
    with pytest.raises(StartFailed, match="no model can be served: ltx-tiny: broken; svd-tiny: broken"):
        fetch_all(cards, said.append)


def test_serve_says_a_sentence_once_whoever_finds_it(
    broken: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.add("ltx-tiny")

    def run_service(*_: object, on_failed: Callable[[str], None], keep_waiting: bool, **__: object) -> Any:
        assert keep_waiting
        for sentence in ("ltx-tiny: broken", "svd-tiny: [also]", "ltx-tiny: broken"):
            on_failed(sentence)
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "run_service", run_service)
    monkeypatch.setattr(serve, "check_job_store", lambda: None)
    serve.run_forever(Console(highlight=False), None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cannot start:")]
    assert lines == ["cannot start: ltx-tiny: broken", "cannot start: svd-tiny: [also]"]
