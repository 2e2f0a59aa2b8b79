"""When a conductor lists the replicas: at every look after news, and seldom without any."""

from __future__ import annotations

from deployments.orchestration.replica_news import AGAIN_S, AT_LEAST_EVERY_S, ReplicaNews


class World:
    """The news, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.news = ReplicaNews(clock=lambda: self.now)

    def looks(self, seconds: float, every_s: float = 0.5) -> int:
        """How many of the looks in the next seconds list the replicas."""
        due = 0
        for _ in range(round(seconds / every_s)):
            self.now += every_s
            if self.news.is_due():
                due += 1
                self.news.looked()
        return due


def test_news_make_every_look_list_the_replicas_for_a_while() -> None:
    world = World()
    assert world.looks(AGAIN_S) == AGAIN_S / 0.5, "it has just begun"
    assert world.looks(2.0) == 0
    world.news.changed()
    assert world.looks(AGAIN_S) == AGAIN_S / 0.5
    assert world.looks(2.0) == 0


def test_a_look_that_fails_is_made_again() -> None:
    world = World()
    world.looks(AGAIN_S)
    world.now += AT_LEAST_EVERY_S
    assert [world.news.is_due() for _ in range(3)] == [True] * 3
    world.news.looked()
    assert not world.news.is_due()


def test_without_news_they_are_still_listed_now_and_then() -> None:
    world = World()
    world.looks(AGAIN_S)
    assert world.looks(20 * AT_LEAST_EVERY_S) == 20
