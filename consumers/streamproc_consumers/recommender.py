"""The recommender: cart events in, rolling features as states, one list of products for every user a batch touched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from streamproc.application import Application, environment
from streamproc.clock import Clock, SystemClock
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import Changed, KeyedProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.snapshots.s3 import S3Snapshots
from streamproc.states.dynamodb import DynamoDBStates
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem, recommendation_id
from streamproc_models import bundle as bundles
from streamproc_models.bundle import Bundle
from streamproc_models.features import FOLD_VERSION, UserState, decode_state, encode_state, fold, new_state
from streamproc_models.features.trending import Trending
from streamproc_models.scorer import Ranked, Scorer
from streamproc_producers.events import CartEvent, decode, utc

#: How many items are recommended.
ITEMS_PER_LIST = 10
#: The arm of users that are in no experiment.
CHAMPION = "champion"


class Recommender(KeyedProcessor[CartEvent, UserState, Recommendation]):
    """Folds a user's events into features and ranks the candidates of all changed users with one booster call.

    One object serves one shard: the scorer's matrix is memory that it uses again. The bundle is shared.
    """

    fold_version = FOLD_VERSION

    def __init__(self, bundle: Bundle, clock: Clock | None = None) -> None:
        self._bundle = bundle
        self._scorer = Scorer(bundle)
        self._clock = clock or SystemClock()
        self._encode = msgspec.json.Encoder().encode

    def decode(self, data: bytes) -> CartEvent:
        """See :func:`streamproc_producers.events.decode`."""
        return decode(data)

    def key(self, event: CartEvent) -> str:
        """The user."""
        return event.user_id

    def event_id(self, event: CartEvent) -> bytes:
        """The producer's id, as 16 bytes."""
        return event.event_id.bytes

    def event_time(self, event: CartEvent) -> float:
        """When the shopper did it."""
        return event.at

    def new_state(self) -> UserState:
        """See :func:`streamproc_models.features.new_state`."""
        return new_state()

    def fold(self, state: UserState, event: CartEvent) -> UserState:
        """See :func:`streamproc_models.features.fold`."""
        return fold(state, event)

    def model_version(self) -> str:
        """The bundle's."""
        return self._bundle.model_version

    def shared(self) -> Trending:
        """What is trending over all shoppers; see :mod:`streamproc_models.features.trending`."""
        return Trending()

    def emit(self, changed: Sequence[Changed[UserState]]) -> Sequence[Recommendation]:
        """A list for every changed user."""
        ranked = self._scorer.rank([(item.key, item.state) for item in changed], ITEMS_PER_LIST)
        published_ts = utc(self._clock.time())
        version, snapshot = self._bundle.model_version, self._bundle.item_snapshot
        return [
            Recommendation(
                recommendation_id=recommendation_id(item.key, item.position, version),
                user_id=item.key,
                items=_items(found),
                model_version=version,
                arm=CHAMPION,
                features_as_of=utc(item.state.last_at),
                position=LogPosition.of(item.position),
                event_ts=utc(item.event_time),
                published_ts=published_ts,
                item_snapshot=snapshot,
                fallback=found.fallback,
            )
            for item, found in zip(changed, ranked, strict=True)
        ]

    def encode(self, output: Recommendation) -> bytes:
        """See :class:`Recommendation`."""
        return self._encode(output)

    def encode_state(self, state: UserState) -> bytes:
        """See :func:`streamproc_models.features.encode_state`."""
        return encode_state(state)

    def decode_state(self, data: bytes) -> UserState:
        """See :func:`streamproc_models.features.decode_state`."""
        return decode_state(data)


def _items(ranked: Ranked) -> list[RecommendedItem]:
    return [RecommendedItem(item.item_id, item.name, item.probability, item.source, item.rank) for item in ranked.items]


def app() -> Application:
    """The recommender, from the environment.

    STREAMPROC_MODEL is the bundle's folder, STREAMPROC_BUCKET takes large dead letters and the snapshots of what is
    trending, STREAMPROC_REDIS_URL is the projection's Redis; STREAMPROC_STREAM, STREAMPROC_DELIVERY_STREAM and
    STREAMPROC_RECOMMENDER_NAME have defaults.
    """
    bundle = bundles.load(Path(environment("STREAMPROC_MODEL")))
    bucket = environment("STREAMPROC_BUCKET")
    return Application(
        name=environment("STREAMPROC_RECOMMENDER_NAME", default="recommender"),
        stream=environment("STREAMPROC_STREAM", default="cart-events"),
        processor=lambda: Recommender(bundle),
        states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=bucket),
        sink=partial(
            FirehoseSink, delivery_stream=environment("STREAMPROC_DELIVERY_STREAM", default="recommendations")
        ),
        snapshots=partial(S3Snapshots, bucket=bucket),
        projection=partial(RedisProjection, url=environment("STREAMPROC_REDIS_URL")),
        # One read more every five seconds, the archive's, makes five a second a shard, which Kinesis allows.
        local=LocalRunnerSettings(poll_seconds=0.21),
        worker=WorkerSettings(checkpoint_seconds=5.0),
    )
