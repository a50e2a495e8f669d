"""The ways that are measured, and which of them a choice of peers means."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

#: Peers by name, as PEERS= takes them. Ours and the floor are always measured.
PEERS = ("kclpy", "bytewax", "pyflink", "spark")
DEFAULT_PEERS = ("kclpy", "bytewax")


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to do the job, at one size of batches."""

    name: str
    label: str
    module: str
    batch: int
    #: Whose environment it runs in; None: ours.
    peer: str | None = None
    log: str = "zipf"
    candidates: int = 100
    #: A user's list is made at most once in so long.
    at_most_every_seconds: float = 0.0
    #: Events or users are taken one at a time: the rate depends little on how many there are, and some are enough.
    one_at_a_time: bool = False
    #: CPU of the whole machine counts: Spark's Python workers are not in the tree of its processes.
    whole_machine: bool = False
    #: It makes no lists.
    is_floor: bool = False
    #: A peer or the floor: oneDAL adds up the trees, as it does with us, and not XGBoost.
    onedal: bool = False


_BYTEWAX = "peers.bytewax"


def _ours(name: str, label: str, batch: int = 1_000, log: str = "zipf", candidates: int = 100) -> Way:
    return Way(name=name, label=label, module="ours", batch=batch, log=log, candidates=candidates)


def _floor(name: str, label: str, batch: int, *, onedal: bool = False) -> Way:
    label = f"{label}, {batch:,} a batch"
    return Way(name=name, label=label, module="floor", batch=batch, is_floor=True, onedal=onedal)


def _bytewax_best(name: str, label: str, batch: int, *, onedal: bool = False) -> Way:
    label = f"Bytewax, {label}, {batch:,} a batch"
    return Way(name=name, label=label, module=f"{_BYTEWAX}_best", peer="bytewax", batch=batch, onedal=onedal)


ALL = (
    *(_ours(f"ours_{batch}", f"ours, {batch:,} a batch", batch) for batch in (100, 1_000, 5_000)),
    _ours("ours_distinct_1000", "ours, 1,000 a batch, no user twice", log="distinct"),
    _ours("ours_20_candidates_1000", "ours, 1,000 a batch, 20 candidates", candidates=20),
    Way(
        name="ours_every_5s_1000",
        label="ours, 1,000 a batch, a user at most every 5 s",
        module="ours",
        batch=1_000,
        at_most_every_seconds=5.0,
    ),
    *(_floor(f"floor_{batch}", "the booster alone", batch) for batch in (100, 1_000, 5_000)),
    _floor("floor_onedal_1000", "the booster alone, by oneDAL", 1_000, onedal=True),
    Way(
        name="kclpy",
        label="amazon-kclpy, event by event",
        module="peers.kclpy",
        peer="kclpy",
        batch=1_000,
        one_at_a_time=True,
    ),
    Way(
        name="kclpy_distinct",
        label="amazon-kclpy, event by event, no user twice",
        module="peers.kclpy",
        peer="kclpy",
        batch=1_000,
        log="distinct",
        one_at_a_time=True,
    ),
    Way(
        name="bytewax_map_1000",
        label="Bytewax, stateful_map",
        module=f"{_BYTEWAX}_map",
        peer="bytewax",
        batch=1_000,
        one_at_a_time=True,
    ),
    Way(
        name="bytewax_user_1000",
        label="Bytewax, a user's events of 1,000 at once",
        module=f"{_BYTEWAX}_user",
        peer="bytewax",
        batch=1_000,
        one_at_a_time=True,
    ),
    *(_bytewax_best(f"bytewax_best_{batch}", "vectorised by hand", batch) for batch in (1_000, 5_000)),
    _bytewax_best("bytewax_best_onedal_1000", "vectorised by hand, by oneDAL", 1_000, onedal=True),
    Way(
        name="pyflink_1000",
        label="PyFlink, KeyedProcessFunction",
        module="peers.pyflink_job",
        peer="pyflink",
        batch=1_000,
    ),
    Way(
        name="spark_5000",
        label="Spark, applyInPandasWithState, 5,000 a batch",
        module="peers.spark_job",
        peer="spark",
        batch=5_000,
        whole_machine=True,
    ),
)


def of_peers(peers: Collection[str]) -> list[Way]:
    """Ours, the floor, and those of these peers."""
    return [way for way in ALL if way.peer is None or way.peer in peers]
