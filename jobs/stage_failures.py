"""Which deployments of stages cannot start, how often in a row they tried, and why.

A row belongs to one deployment of the application, named by the time at which that happened: those of an earlier one
do not count, because an operator who deploys again has changed something. No clocks are compared for that.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Row, case, delete, select, update

from jobs.database import Database, insert_into
from jobs.schema import stage_failures

GIVEN_UP_AT = 3
"""The failure in a row at which a deployment's replicas stop restarting, and refuse their calls instead."""
REMEMBERED = 100
"""How many refusing replicas a row names. A deployment has far fewer at once."""


@dataclass(frozen=True, slots=True)
class StageFailure:
    """A deployment whose last start failed."""

    failures: int  # in a row
    message: str  # of the last one
    at: float  # seconds since the epoch
    refusing: frozenset[str]  # the replicas that have given up loading, and refuse their calls


class StageFailures:
    """The failed starts of stages. Methods block for the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def failed(self, deployment: str, message: str, at: float, *, deployed_at: float) -> int:
        """Record that a replica could not load its stage; returns how many have failed in a row, this one included."""
        table = stage_failures
        with self._database.write() as connection:
            insert = insert_into(connection.dialect.name, table).values(
                deployment=deployment, deployed_at=deployed_at, failures=1, message=message, at=at, refusing=[]
            )
            again = {
                "deployed_at": deployed_at,
                "failures": case((table.c.deployed_at == deployed_at, table.c.failures + 1), else_=1),
                "message": message,
                "at": at,
            }
            upsert = insert.on_conflict_do_update(index_elements=[table.c.deployment], set_=again)
            failures: int = connection.execute(upsert.returning(table.c.failures)).scalar_one()
        return failures

    def record_refusal(self, deployment: str, replica: str) -> bool:
        """Record that a replica refuses its calls; returns False when another one has loaded the stage meanwhile."""
        its = stage_failures.c.deployment == deployment
        with self._database.write() as connection:
            query = select(stage_failures.c.refusing).where(its).with_for_update()
            refusing: list[str] | None = connection.execute(query).scalar_one_or_none()
            if refusing is None:
                return False
            named = [*(each for each in refusing if each != replica), replica][-REMEMBERED:]
            connection.execute(update(stage_failures).where(its).values(refusing=named))
        return True

    def started(self, deployment: str) -> None:
        """Forget a deployment's failures: a replica has loaded its stage."""
        its = stage_failures.c.deployment == deployment
        with self._database.read() as connection:
            if connection.execute(select(stage_failures.c.failures).where(its)).first() is None:
                return  # nearly always, and then nothing waits for a writer
        with self._database.write() as connection:
            connection.execute(delete(stage_failures).where(its))

    def of(self, deployment: str, *, deployed_at: float) -> StageFailure | None:
        """A deployment's failures since the application was deployed."""
        return self.all(deployed_at=deployed_at).get(deployment)

    def all(self, *, deployed_at: float) -> dict[str, StageFailure]:
        """The failures since the application was deployed, by deployment."""
        query = select(stage_failures).where(stage_failures.c.deployed_at == deployed_at)
        with self._database.read() as connection:
            return {row.deployment: _read(row) for row in connection.execute(query)}


def _read(row: Row[tuple[object, ...]]) -> StageFailure:
    return StageFailure(row.failures, row.message, row.at, frozenset(row.refusing))
