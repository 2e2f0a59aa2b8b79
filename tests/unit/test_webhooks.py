"""From the end of a job to its receiver, over both databases, real HTTP and the verification of OpenAI's client."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from sqlalchemy import event, func, select, update
from sqlalchemy.exc import OperationalError

from deployments.housekeeping.webhook_sender import AT_ONCE, PER_RECEIVER, WebhookSender
from deployments.outbound import Outbound
from jobs import webhooks as webhooks_module
from jobs.database import Database
from jobs.lifecycle import CANCELED, Status
from jobs.record import Job
from jobs.schema import webhooks
from jobs.webhooks import BACKOFF_S, SENDING_S, Delivery, Outbox, enqueue
from pipelines.errors import ConfigError
from tests.harness.receiver import Received, Receiver, receive
from tests.unit.conftest import new_job

SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as running:
        yield running


@pytest.fixture
def opened(database: str, connect: Callable[[str], Database]) -> Database:
    return connect(database)


def ended(url: str, **fields: object) -> Job:
    return new_job(**{"prompt": "a secret wish", "status": Status.COMPLETED, "webhook_url": url, **fields})


def owe(database: Database, url: str, **fields: object) -> Job:
    job = ended(url, **fields)
    with database.write() as connection:
        enqueue(connection, job)
    return job


def make_due(database: Database) -> None:
    """What waiting would do."""
    with database.write() as connection:
        connection.execute(update(webhooks).values(next_at=0.0))


def row(database: Database) -> tuple[int, float, float | None, str | None]:
    """Attempts, when the next is due, when it was settled and the error, of the only webhook."""
    columns = (webhooks.c.attempts, webhooks.c.next_at, webhooks.c.delivered_at, webhooks.c.error)
    with database.read() as connection:
        return tuple(connection.execute(select(*columns)).one())


def owed(database: Database) -> int:
    with database.read() as connection:
        pending = select(func.count()).select_from(webhooks).where(webhooks.c.delivered_at.is_(None))
        return connection.execute(pending).scalar_one()


def take(outbox: Outbox, limit: int = 10) -> list[Delivery]:
    return outbox.take(limit, limit, [])


def sender_to(database: Database, *ports: int) -> WebhookSender:
    return WebhookSender(Outbox(database), Outbound([f"127.0.0.1:{port}" for port in ports]), SECRET)


async def send(sender: WebhookSender) -> int:
    """Send what is due now, to the end; how many were tried."""
    await sender.begin()
    tried = len(sender.sending)
    while sender.sending:
        await sender.one_ended(30)
    return tried


def run_once(database: Database, *receivers: Receiver) -> int:
    """What a process that has just started does first."""
    return asyncio.run(send(sender_to(database, *(receiver.port for receiver in receivers))))


def verify(received: Received, *, secret: str = SECRET) -> None:
    with OpenAI(api_key="x", webhook_secret=secret) as client:
        client.webhooks.verify_signature(received.body, received.headers)


def test_a_delivery_is_what_openais_client_verifies(opened: Database, receiver: Receiver) -> None:
    job = owe(opened, receiver.url)
    assert run_once(opened, receiver) == 1
    [received] = receiver.received
    verify(received)
    assert received.headers["content-type"] == "application/json"
    event = json.loads(received.body)
    assert event["id"] == received.headers["webhook-id"]
    assert (event["object"], event["type"]) == ("event", "video.completed")
    assert event["data"] == {"id": job.id, "model": "m", "status": "completed"}
    assert b"wish" not in received.body

    with pytest.raises(InvalidWebhookSignatureError):
        verify(replace(received, body=received.body.replace(b"completed", b"completeD")))
    with pytest.raises(InvalidWebhookSignatureError):
        verify(replace(received, headers={**received.headers, "webhook-id": "evt_other"}))
    with pytest.raises(InvalidWebhookSignatureError):
        verify(received, secret="whsec_" + base64.b64encode(b"b" * 32).decode())

    assert run_once(opened, receiver) == 0
    assert owed(opened) == 0


def test_a_failure_and_a_cancellation_say_what_happened(opened: Database, receiver: Receiver) -> None:
    owe(opened, receiver.url, status=Status.FAILED, error_code="generation_failed", error_message="é broke")
    owe(opened, receiver.url, status=Status.FAILED, error_code=CANCELED)
    assert run_once(opened, receiver) == 2
    for received in receiver.received:
        verify(received)
    events = {event["type"]: event["data"] for event in (json.loads(each.body) for each in receiver.received)}
    assert events["video.failed"]["error"] == {"code": "generation_failed", "message": "é broke"}
    assert events["video.canceled"]["error"] == {"code": "canceled", "message": ""}


def test_it_is_tried_again_after_a_restart_with_the_same_id(
    database: str, connect: Callable[[str], Database], receiver: Receiver
) -> None:
    receiver.answers = [(500, {}, b"secret of the receiver"), (204, {}, b"")]
    before = connect(database)
    owe(before, receiver.url)
    sent = time.time()
    assert run_once(before, receiver) == 1
    attempts, next_at, settled, error = row(before)
    assert (attempts, settled, error) == (1, None, "answered 500")
    assert 0.75 * BACKOFF_S[0] <= next_at - sent <= 1.25 * BACKOFF_S[0] + 30
    assert run_once(before, receiver) == 0  # not due yet
    before.close()

    after = connect(database)
    make_due(after)
    assert run_once(after, receiver) == 1
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    verify(second)
    assert row(after)[0] == 2
    assert row(after)[3] is None
    assert owed(after) == 0


def test_what_a_sender_took_and_never_settled_is_sent_by_the_next(opened: Database, receiver: Receiver) -> None:
    owe(opened, receiver.url)
    now = time.time()
    assert len(take(Outbox(opened))) == 1  # and the process dies
    assert run_once(opened, receiver) == 0
    assert row(opened)[1] >= now + SENDING_S - 0.01, "SQLite's clock has milliseconds"
    make_due(opened)
    assert run_once(opened, receiver) == 1
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(opened: Database, receiver: Receiver, status: int) -> None:
    with receive() as other:
        receiver.answers = [(status, {"location": other.url}, b"")]
        owe(opened, receiver.url)
        assert run_once(opened, receiver, other) == 1
        assert other.received == []
    assert row(opened)[2:] == (None, f"answered {status}")


def test_a_private_receiver_is_refused_unless_allowed(opened: Database, receiver: Receiver) -> None:
    owe(opened, f"https://127.0.0.1:{receiver.port}/hook")
    assert run_once(opened) == 1
    assert receiver.received == []
    assert "not a public address" in (row(opened)[3] or "")


def test_one_who_is_gone_is_left_alone(opened: Database, receiver: Receiver) -> None:
    receiver.answers = [(410, {}, b"")]
    owe(opened, receiver.url)
    assert run_once(opened, receiver) == 1
    attempts, _, settled, error = row(opened)
    assert (attempts, error) == (1, "answered 410")
    assert settled is not None
    make_due(opened)
    assert run_once(opened, receiver) == 0


def test_it_is_given_up_after_the_last_try(opened: Database, receiver: Receiver) -> None:
    receiver.answers = [(503, {}, b"")]
    owe(opened, receiver.url)
    sender = sender_to(opened, receiver.port)
    for attempt in range(1, len(BACKOFF_S) + 2):
        make_due(opened)
        assert asyncio.run(send(sender)) == 1
        assert (row(opened)[2] is None) == (attempt <= len(BACKOFF_S))
    make_due(opened)
    assert asyncio.run(send(sender)) == 0
    assert len(receiver.received) == len(BACKOFF_S) + 1
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1


def test_one_bad_receiver_keeps_nobody_waiting(opened: Database, receiver: Receiver) -> None:
    with receive() as dead:
        pass
    owe(opened, dead.url)
    owe(opened, receiver.url)
    assert run_once(opened, receiver, dead) == 2
    assert len(receiver.received) == 1
    assert owed(opened) == 1


def test_a_receiver_that_never_answers_has_its_share_and_no_more(opened: Database, receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=AT_ONCE) as silent:
        port = silent.getsockname()[1]
        for index in range(2 * AT_ONCE):
            owe(opened, f"http://127.0.0.1:{port}{('', '/', '?to', '/hook')[index % 4]}")
        make_due(opened)  # before all that follow
        for _ in range(2 * AT_ONCE):
            owe(opened, receiver.url)
        sender = sender_to(opened, port, receiver.port)

        async def run() -> None:
            async with asyncio.timeout(10):  # the silent one is given up after 15
                while len(receiver.received) < 2 * AT_ONCE or len(sender.sending) > PER_RECEIVER:
                    await sender.begin()
                    assert len(sender.sending) <= AT_ONCE
                    await sender.one_ended(1)
            assert {str(port) in delivery.url for delivery in sender.sending.values()} == {True}
            assert len(sender.sending) == PER_RECEIVER

        asyncio.run(run())
    with opened.read() as connection:
        tries = connection.execute(select(func.sum(webhooks.c.attempts))).scalar_one()
    assert tries == 2 * AT_ONCE + PER_RECEIVER, "those that wait for their receiver's share have lost no try"


def test_receivers_are_told_apart_by_the_whole_host(opened: Database) -> None:
    outbox = Outbox(opened)
    urls = ["https://a.example", "https://a.example/b", "https://a.example?b", "https://a.example:444/",
            "https://a.example.com/", "https://b.example/?https://a.example/"]  # fmt: skip
    for url in urls:
        owe(opened, url)
    taken = outbox.take(10, 1, ["https://a.example/%_"])
    assert sorted(delivery.url for delivery in taken) == sorted(urls[3:])
    assert [len(outbox.take(10, 2, [])), len(outbox.take(10, 2, []))] == [2, 1]


def test_a_database_that_fails_for_one_fails_for_no_other(opened: Database, receiver: Receiver) -> None:
    class Failing(Outbox):
        def failed(self, delivery: Delivery, error: str) -> bool:
            raise OperationalError(delivery.id, None, OSError(error))

    owe(opened, "https://127.0.0.1/")  # refused at once
    owe(opened, receiver.url)
    sender = WebhookSender(Failing(opened), Outbound([f"127.0.0.1:{receiver.port}"]), SECRET)

    async def run() -> None:
        await sender.begin()
        with pytest.raises(OperationalError):
            await send(sender)
        await send(sender)

    asyncio.run(run())
    assert len(receiver.received) == owed(opened) == 1


def test_senders_share_what_is_due(database: str, connect: Callable[[str], Database]) -> None:
    outboxes = [Outbox(connect(database)) for _ in range(4)]
    for _ in range(40):
        owe(connect(database), "https://example.com/")
    taken: list[str] = []

    def take_all(outbox: Outbox) -> None:
        while got := outbox.take(3, 3, []):
            assert len(got) <= 3
            taken.extend(delivery.id for delivery in got)

    threads = [threading.Thread(target=take_all, args=(outbox,)) for outbox in outboxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40


def test_a_slow_sender_undoes_nothing(opened: Database) -> None:
    outbox = Outbox(opened)
    owe(opened, "https://example.com/")
    [slow] = take(outbox)
    make_due(opened)
    [quick] = take(outbox)
    outbox.failed(slow, "answered 500")
    assert row(opened)[3] is None  # the try of `quick` goes on
    outbox.delivered(quick)
    outbox.failed(quick, "answered 500")
    outbox.give_up(slow, "answered 410")
    assert row(opened)[2] is not None
    assert row(opened)[3] is None


def test_a_slow_success_settles_it_for_all(opened: Database) -> None:
    outbox = Outbox(opened)
    owe(opened, "https://example.com/")
    [slow] = take(outbox)
    make_due(opened)
    [quick] = take(outbox)
    outbox.delivered(slow)
    outbox.failed(quick, "answered 500")
    assert owed(opened) == 0
    assert row(opened)[3] is None


def test_only_what_was_settled_long_ago_is_forgotten(opened: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(opened)
    owe(opened, "https://example.com/")
    [delivery] = take(outbox)
    monkeypatch.setattr(webhooks_module, "KEEP_S", -1.0)
    outbox.forget_old()
    assert owed(opened) == 1
    outbox.delivered(delivery)
    monkeypatch.setattr(webhooks_module, "KEEP_S", 60.0)
    outbox.forget_old()
    assert row(opened)[2] is not None
    monkeypatch.setattr(webhooks_module, "KEEP_S", -1.0)
    outbox.forget_old()
    with opened.read() as connection:
        assert connection.execute(select(webhooks.c.id)).all() == []


def test_forgetting_reads_only_what_was_settled_long_ago(opened: Database) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(opened.engine, "before_cursor_execute", note)
    Outbox(opened).forget_old()
    [(deletion, parameters)] = [each for each in statements if each[0].startswith("DELETE")]
    with opened.write() as connection:
        if not opened.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # it prefers to read a table that is empty
        explain = "EXPLAIN QUERY PLAN" if opened.is_sqlite else "EXPLAIN"
        plan = connection.exec_driver_sql(f"{explain} {deletion}", parameters).all()
    assert "webhooks_by_settling" in str(plan)


def test_the_log_names_the_job_and_no_secret(
    opened: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [(500, {}, b""), (200, {}, b"")]
    job = owe(opened, f"{receiver.url}?token=hunter2")
    with caplog.at_level(logging.DEBUG):
        run_once(opened, receiver)
        make_due(opened)
        run_once(opened, receiver)
    ours = [record.getMessage() for record in caplog.records if record.name == "ray.serve"]
    assert [message.split()[0] for message in ours] == ["webhook.failed", "webhook.delivered"]
    assert all(job.id in message for message in ours)
    assert "hunter2" not in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("secret", ["", "whsec_", "hunter2", "whsec_hunter2", "whsec_not base64", SECRET[6:]])
def test_a_secret_that_receivers_would_read_otherwise_is_refused(
    secret: str, connect: Callable[[str], Database]
) -> None:
    with pytest.raises(ConfigError, match="openssl rand") as refused:
        WebhookSender(Outbox(connect("sqlite://")), Outbound(), secret)
    assert secret in ("", "whsec_") or secret not in str(refused.value)
