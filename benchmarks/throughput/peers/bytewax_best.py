"""Bytewax at its best, made by hand: one key for all users, so that a batch is folded and scored as a whole.

Its snapshot is the states of all users in one value of SQLite. It scales to one worker, and nobody else can read it.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import bytewax.operators as op  # type: ignore[import-not-found,unused-ignore]
from bytewax.operators import StatefulBatchLogic  # type: ignore[import-not-found,unused-ignore]

from benchmarks.throughput.job import Peer
from benchmarks.throughput.peers.bytewax_flow import Made, run
from streamproc_models.features import UserState, decode_state, encode_state, fold, new_state
from streamproc_producers.events import CartEvent


class AllUsers(StatefulBatchLogic):  # type: ignore[misc]
    def __init__(self, states: dict[str, UserState], peer: Peer) -> None:
        self._states = states
        self._peer = peer

    def on_batch(self, values: list[CartEvent]) -> tuple[list[Made], bool]:
        states = self._states
        last: dict[str, UUID] = {}
        for event in values:
            user_id = event.user_id
            states[user_id] = fold(states.get(user_id) or new_state(), event)
            last[user_id] = event.event_id
        users = [(user_id, states[user_id]) for user_id in last]
        lines = self._peer.lists(users, last.values())
        made = [(user_id, encode_state(state), line) for (user_id, state), line in zip(users, lines, strict=True)]
        return made, StatefulBatchLogic.RETAIN

    def snapshot(self) -> dict[str, bytes]:
        return {user_id: encode_state(state) for user_id, state in self._states.items()}


def recommend(keyed: Any, peer: Peer) -> Any:
    """A list for each user of a batch."""

    def build(snapshot: dict[str, bytes] | None) -> AllUsers:
        return AllUsers({user_id: decode_state(state) for user_id, state in (snapshot or {}).items()}, peer)

    return op.stateful_batch("recommend", keyed, build)


if __name__ == "__main__":
    run(lambda _event: "all", recommend)
