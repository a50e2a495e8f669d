"""What the routes work with, put together from the settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import msgspec
from litestar.di import NamedDependency

from streamproc.snapshots.s3 import S3Snapshots
from streamproc.telemetry import Telemetry
from streamproc_consumers.api.idempotency import Idempotency
from streamproc_consumers.api.ranking import Rankings
from streamproc_consumers.api.sending import Sending
from streamproc_consumers.api.settings import ApiSettings
from streamproc_consumers.api.snapshots import FollowedSnapshots
from streamproc_consumers.api.states import States, redis_client, serving_namespace
from streamproc_consumers.arms import read_cascade, read_experiment
from streamproc_consumers.reload import models_at
from streamproc_models.registry import SHADOW


class Services(msgspec.Struct, frozen=True, dict=True):
    """The parts of a running API. Used in one event loop."""

    settings: ApiSettings
    telemetry: Telemetry
    rankings: Rankings
    states: States
    sending: Sending
    idempotency: Idempotency
    #: None where nothing that is trending is offered.
    snapshots: FollowedSnapshots | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow models and alias within it, and close everything behind it."""
        self.rankings.start(self.telemetry)
        following = [asyncio.create_task(self.states.follow())]
        if self.snapshots is not None:
            following.append(asyncio.create_task(self.snapshots.follow()))
        try:
            yield
        finally:
            for task in following:
                task.cancel()
            await self.sending.close()
            await self.states.close()


#: As a route takes them: a parameter of the name ``services``.
Parts = NamedDependency[Services]


def open_services(settings: ApiSettings, telemetry: Telemetry | None = None) -> Services:
    """The parts, with the models loaded and the namespace known.

    Raises SettingsError, BundleInvalid, and what :func:`streamproc.errors.translated` does where AWS cannot tell which
    states serve.
    """
    telemetry = telemetry or Telemetry()
    experiment = read_experiment(settings.experiment)
    others = [alias for alias in experiment.aliases() if alias != SHADOW] if experiment else []
    models = models_at(settings.model, others, poll_seconds=settings.model_poll_seconds)
    client = redis_client(settings)
    states = States(settings, serving_namespace(settings.application, settings.stream), telemetry, client=client)
    rankings = Rankings(models, experiment, read_cascade(settings.cascade))
    return Services(
        settings=settings,
        telemetry=telemetry,
        rankings=rankings,
        states=states,
        sending=Sending.to(settings.stream, settings.acknowledge_seconds, telemetry),
        idempotency=Idempotency(settings, client, states.redis),
        snapshots=FollowedSnapshots(
            settings, rankings, states, telemetry, store_of=partial(S3Snapshots, bucket=settings.bucket)
        )
        if settings.trending
        else None,
    )
