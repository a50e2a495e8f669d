"""Bytewax as its documentation shows it: ``stateful_map`` by user, one prediction and one list an event."""

from __future__ import annotations

from typing import Any

import bytewax.operators as op  # type: ignore[import-not-found,unused-ignore]

from benchmarks.throughput.job import Peer
from benchmarks.throughput.peers.bytewax_flow import Made, run
from streamproc_models.features import UserState, encode_state, fold, new_state
from streamproc_producers.events import CartEvent


def recommend(keyed: Any, peer: Peer) -> Any:
    """A list after each event."""

    def listed(state: UserState | None, event: CartEvent) -> tuple[UserState, Made]:
        state = fold(state or new_state(), event)
        [line] = peer.lists([(event.user_id, state)], [event.event_id])
        return state, (event.user_id, encode_state(state), line)

    return op.stateful_map("recommend", keyed, listed)


if __name__ == "__main__":
    run(lambda event: event.user_id, recommend)
