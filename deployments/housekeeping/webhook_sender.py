"""Sends the webhooks in the outbox, signed the way Standard Webhooks and OpenAI's client expect.

Every webhook is signed: without a secret no sender runs, and the API refuses `webhook_url`.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from standardwebhooks import Webhook

from deployments.configuration.settings import require_webhook_secret
from deployments.events import emit
from deployments.outbound import Outbound, Refused
from jobs.webhooks import Delivery, Outbox

AT_ONCE, PER_RECEIVER = 32, 8
"""The limits of deliveries in flight, in total and per receiver: a slow receiver must not take all of them."""


class WebhookSender:
    """Posts the webhooks that are due. Any number of senders may share one outbox.

    A receiver may get a webhook twice, always with the same `webhook-id`. A 2xx answer settles it, 410 Gone makes the
    sender give up, and anything else is tried again. `secret` is `whsec_` and the base64 of at least 24 bytes.

    Raises:
        ConfigError: the secret is not of that form.
    """

    def __init__(self, outbox: Outbox, outbound: Outbound, secret: str) -> None:
        self._outbox = outbox
        self._outbound = outbound
        require_webhook_secret(secret)
        self._signer = Webhook(secret)
        self.sending: dict[asyncio.Task[None], Delivery] = {}

    async def begin(self) -> None:
        """Begin to send the webhooks that are due, up to the limits.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used.
        """
        while room := AT_ONCE - len(self.sending):
            urls = [delivery.url for delivery in self.sending.values()]
            # One call may find only deliveries to a receiver that is at its limit; the next call skips those.
            taken = await asyncio.to_thread(self._outbox.take, room, PER_RECEIVER, urls)
            if not taken:
                return
            self.sending.update({asyncio.create_task(self._send(delivery)): delivery for delivery in taken})

    async def one_ended(self, within_s: float) -> None:
        """Wait until a delivery has ended, so that another can begin, but no longer than `within_s`.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used; unsettled deliveries become due again.
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
        now = datetime.now(UTC)  # the time of this try: receivers refuse old timestamps
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
