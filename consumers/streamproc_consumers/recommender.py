"""The recommender: cart events in, rolling features as states, one list of products for every user a batch touched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from functools import partial

import msgspec

from streamproc.application import Application, environment, seconds_of
from streamproc.clock import Clock, SystemClock
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import Changed, KeyedProcessor, Snapshot
from streamproc.projections.redis import RedisProjection
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.snapshots.s3 import S3Snapshots
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.telemetry import Telemetry
from streamproc_consumers.arms import Experiment, Ranker, Served, read_cascade, read_experiment
from streamproc_consumers.recommendation import LogPosition, Recommendation, recommendation_id
from streamproc_consumers.reload import POLL_SECONDS, FixedModels, Models, models_at, poll_seconds
from streamproc_consumers.trending import read_trending, trend_of
from streamproc_models.bundle import Bundle
from streamproc_models.features import FOLD_VERSION, UserState, decode_state, encode_state, fold, new_state
from streamproc_models.features.trending import Trending
from streamproc_models.scorer import Cascade
from streamproc_producers.events import CartEvent, decode, utc

#: How many items are recommended.
ITEMS_PER_LIST = 10


class Recommender(KeyedProcessor[CartEvent, UserState, Recommendation]):
    """Folds a user's events into features and ranks the candidates of all changed users with one booster call an arm.

    One object serves one shard: the scorers' memory is used again. The models are shared, and change between batches;
    see :mod:`streamproc_consumers.reload`. ``trending`` is how many items of the latest snapshot are offered to every
    user.
    """

    fold_version = FOLD_VERSION

    def __init__(
        self,
        models: Bundle | Models,
        clock: Clock | None = None,
        *,
        experiment: Experiment | None = None,
        cascade: Cascade | None = None,
        trending: int = 0,
    ) -> None:
        self._models = FixedModels(models) if isinstance(models, Bundle) else models
        self._clock = clock or SystemClock()
        self._ranker = Ranker(self._models, experiment, self._clock, cascade=cascade)
        self._trending = trending
        self._encoder = msgspec.json.Encoder()
        self._line = bytearray()

    def observe(self, telemetry: Telemetry) -> None:
        """Follow the models from now on, and tell there what becomes of them."""
        self._models.start(telemetry)
        self._ranker.observe(telemetry)

    def decode(self, data: bytes) -> CartEvent:
        """See :func:`streamproc_producers.events.decode`."""
        return decode(data)

    def key(self, event: CartEvent) -> str:
        """The user."""
        return event.user_id

    def event_id(self, event: CartEvent) -> bytes:
        """The producer's id, as 16 bytes."""
        return event.event_id.int.to_bytes(16)

    def event_time(self, event: CartEvent) -> float:
        """When the shopper did it."""
        return event.ts.timestamp()

    def new_state(self) -> UserState:
        """See :func:`streamproc_models.features.new_state`."""
        return new_state()

    def fold(self, state: UserState, event: CartEvent) -> UserState:
        """See :func:`streamproc_models.features.fold`."""
        return fold(state, event)

    def model_version(self) -> str:
        """Of the bundles that the last batch was ranked with."""
        return self._ranker.model_version()

    def shared(self) -> Trending:
        """What is trending over all shoppers; see :mod:`streamproc_models.features.trending`."""
        return Trending()

    def use_snapshot(self, snapshot: Snapshot) -> None:
        """What is trending is offered to every user from now on, where that is switched on."""
        if self._trending:
            self._ranker.offer(trend_of(snapshot, self._trending))

    def emit(self, changed: Sequence[Changed[UserState]]) -> Sequence[Recommendation]:
        """A list for every changed user. The bundles are those in force now, for all of them."""
        ranked = self._ranker.rank([(item.key, item.state) for item in changed], ITEMS_PER_LIST)
        published_ts = utc(self._clock.time())
        return [_recommendation(item, served, published_ts) for item, served in zip(changed, ranked, strict=True)]

    def encode(self, output: Recommendation) -> bytes:
        """See :class:`Recommendation`."""
        # Into memory that is used again, as states are: see streamproc_models.features.encode_state.
        self._encoder.encode_into(output, self._line)
        return bytes(self._line)

    def encode_state(self, state: UserState) -> bytes:
        """See :func:`streamproc_models.features.encode_state`."""
        return encode_state(state)

    def decode_state(self, data: bytes) -> UserState:
        """See :func:`streamproc_models.features.decode_state`."""
        return decode_state(data)


def _recommendation(item: Changed[UserState], served: Served, published_ts: datetime) -> Recommendation:
    ranked, arm, propensity, bundle, _ = served
    position, last_at, event_time, version = item.position, item.state.last_at, item.event_time, bundle.model_version
    event_ts = utc(event_time)
    return Recommendation(
        recommendation_id=recommendation_id(item.key, position, version),
        user_id=item.key,
        items=ranked.items,
        model_version=version,
        arm=arm,
        propensity=propensity,
        features_as_of=event_ts if last_at == event_time else utc(last_at),
        position=LogPosition.of(position),
        event_ts=event_ts,
        published_ts=published_ts,
        item_snapshot=served.item_snapshot,
        fallback=ranked.fallback,
    )


def read_seconds(text: str) -> float:
    """The setting STREAMPROC_SCORE_AT_MOST_EVERY; 0 without it. Raises SettingsError."""
    meaning = "a list is that much older than its user's last event at most, and no older than a checkpoint"
    return seconds_of("STREAMPROC_SCORE_AT_MOST_EVERY", text or "0", least=0, meaning=meaning)


def app() -> Application:
    """The recommender, from the environment.

    STREAMPROC_MODEL is a bundle's folder, or a registry and the alias to follow, as s3://bucket/models/NAME@champion;
    STREAMPROC_MODEL_POLL_SECONDS and STREAMPROC_EXPERIMENT go with it (docs/models.md). STREAMPROC_CASCADE scores fewer
    candidates to the end, as {"first_trees": 40, "keep": 25}; STREAMPROC_SCORE_AT_MOST_EVERY scores a user at most once
    in so many seconds. STREAMPROC_TRENDING offers every user so many trending items. STREAMPROC_BUCKET takes large dead
    letters and the snapshots of what is trending, STREAMPROC_REDIS_URL is the projection's Redis; STREAMPROC_STREAM,
    STREAMPROC_DELIVERY_STREAM and STREAMPROC_RECOMMENDER_NAME have defaults.
    """
    address, experiment = environment("STREAMPROC_MODEL"), read_experiment(os.environ.get("STREAMPROC_EXPERIMENT", ""))
    poll = environment("STREAMPROC_MODEL_POLL_SECONDS", default=str(POLL_SECONDS))
    models = models_at(address, experiment.aliases() if experiment else [], poll_seconds=poll_seconds(poll))
    cascade = read_cascade(os.environ.get("STREAMPROC_CASCADE", ""))
    trending = read_trending(os.environ.get("STREAMPROC_TRENDING", ""))
    bucket = environment("STREAMPROC_BUCKET")
    return Application(
        name=environment("STREAMPROC_RECOMMENDER_NAME", default="recommender"),
        stream=environment("STREAMPROC_STREAM", default="cart-events"),
        processor=lambda: Recommender(models, experiment=experiment, cascade=cascade, trending=trending),
        states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=bucket),
        sink=partial(
            FirehoseSink, delivery_stream=environment("STREAMPROC_DELIVERY_STREAM", default="recommendations")
        ),
        snapshots=partial(S3Snapshots, bucket=bucket),
        projection=partial(RedisProjection, url=environment("STREAMPROC_REDIS_URL")),
        # One read more every five seconds, the archive's, makes five a second a shard, which Kinesis allows.
        local=LocalRunnerSettings(poll_seconds=0.21),
        worker=WorkerSettings(
            checkpoint_seconds=5.0,
            emit_at_most_every_seconds=read_seconds(os.environ.get("STREAMPROC_SCORE_AT_MOST_EVERY", "")),
        ),
    )
