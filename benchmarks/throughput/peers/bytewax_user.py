"""Bytewax with ``stateful_batch`` by user: one prediction and one list for all events of a user in a batch."""

from __future__ import annotations

from typing import Any

import bytewax.operators as op  # type: ignore[import-not-found,unused-ignore]
from bytewax.operators import StatefulBatchLogic  # type: ignore[import-not-found,unused-ignore]

from benchmarks.throughput.job import Peer
from benchmarks.throughput.peers.bytewax_flow import Made, run
from streamproc_models.features import UserState, decode_state, encode_state, fold, new_state
from streamproc_producers.events import CartEvent


class User(StatefulBatchLogic):  # type: ignore[misc]
    def __init__(self, state: UserState, peer: Peer) -> None:
        self._state = state
        self._peer = peer

    def on_batch(self, values: list[CartEvent]) -> tuple[list[Made], bool]:
        for event in values:
            self._state = fold(self._state, event)
        last = values[-1]
        [line] = self._peer.lists([(last.user_id, self._state)], [last.event_id])
        return [(last.user_id, encode_state(self._state), line)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        return encode_state(self._state)


def recommend(keyed: Any, peer: Peer) -> Any:
    """A list for each user of a batch."""

    def build(snapshot: bytes | None) -> User:
        return User(decode_state(snapshot) if snapshot is not None else new_state(), peer)

    return op.stateful_batch("recommend", keyed, build)


if __name__ == "__main__":
    run(lambda event: event.user_id, recommend)
