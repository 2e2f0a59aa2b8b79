"""Sends the outbox of webhooks, signed as Standard Webhooks and OpenAI's client have it.

There is no unsigned webhook: without a secret no sender runs, and the API refuses `webhook_url`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from datetime import UTC, datetime

from standardwebhooks import Webhook

from deployments.events import emit
from deployments.outbound import Outbound, Refused
from jobs.webhooks import Delivery, Outbox
from pipelines.errors import ConfigError

AT_ONCE, PER_RECEIVER = 32, 8
"""How many deliveries are on their way, and how many of them to one receiver: a slow one leaves the others theirs."""
SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES = 24


class WebhookSender:
    """Posts what is due. Any number of senders may share one outbox.

    A receiver may get a webhook twice, always with the same `webhook-id`; 2xx settles it, 410 Gone gives it up, and
    anything else is tried again. `secret` is `whsec_` and the base64 of at least 24 bytes.

    Raises:
        ConfigError: the secret is not of that form.
    """

    def __init__(self, outbox: Outbox, outbound: Outbound, secret: str) -> None:
        self._outbox = outbox
        self._outbound = outbound
        self._signer = _signer(secret)
        self.sending: dict[asyncio.Task[None], Delivery] = {}

    async def begin(self) -> None:
        """Begin to send what is due, as much as there is room for.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used.
        """
        while room := AT_ONCE - len(self.sending):
            urls = [delivery.url for delivery in self.sending.values()]
            # One call may meet only deliveries of a receiver that has its share; the next one passes over them.
            taken = await asyncio.to_thread(self._outbox.take, room, PER_RECEIVER, urls)
            if not taken:
                return
            self.sending.update({asyncio.create_task(self._send(delivery)): delivery for delivery in taken})

    async def one_ended(self, within_s: float) -> None:
        """Wait until a delivery has ended, so that there is room, but no longer than `within_s`.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used; what was not settled becomes due again.
        """
        if not self.sending:
            await asyncio.sleep(within_s)
            return
        ended, _ = await asyncio.wait(self.sending, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            del self.sending[task]
        errors = [error for task in ended if (error := task.exception()) is not None]
        if errors:
            raise errors[0]

    async def _send(self, delivery: Delivery) -> None:
        now = datetime.now(UTC)  # of this try: receivers refuse old ones
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(delivery.id, now, delivery.payload),
        }
        try:
            status = await self._outbound.post(delivery.url, delivery.payload.encode(), headers)
        except Refused as refused:
            await self._failed(delivery, str(refused))
            return
        if 200 <= status < 300:
            await asyncio.to_thread(self._outbox.delivered, delivery)
            emit("webhook.delivered", job_id=delivery.job_id, attempt=delivery.attempts, status=status)
        else:
            await self._failed(delivery, f"answered {status}", gone=status == 410)

    async def _failed(self, delivery: Delivery, reason: str, *, gone: bool = False) -> None:
        if gone:
            await asyncio.to_thread(self._outbox.give_up, delivery, reason)
            again = False
        else:
            again = await asyncio.to_thread(self._outbox.failed, delivery, reason)
        emit(
            "webhook.failed", level=logging.WARNING, job_id=delivery.job_id, attempt=delivery.attempts,
            again=again, reason=reason,
        )  # fmt: skip


def _signer(secret: str) -> Webhook:
    # Without the prefix the receivers' libraries disagree on what the key is.
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"the webhook secret must be {SECRET_PREFIX} and the base64 of at least {MIN_SECRET_BYTES} random bytes; "
            f'make one with `echo "{SECRET_PREFIX}$(openssl rand -base64 32)"`'
        )
    return Webhook(secret)
