"""Follows the recommender's snapshots of what is trending, so that both offer the same items."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamproc.namespace import Namespace
from streamproc.processor import Snapshot
from streamproc.snapshot import SnapshotStore
from streamproc.telemetry import Retried, Telemetry
from streamproc_consumers.api.ranking import Rankings
from streamproc_consumers.api.settings import ApiSettings
from streamproc_consumers.api.states import States
from streamproc_consumers.trending import trend_of
from streamproc_models.features.trending import Trending


class FollowedSnapshots:
    """The latest snapshot of the namespace that serves, looked for now and then. For one event loop."""

    def __init__(
        self,
        settings: ApiSettings,
        rankings: Rankings,
        states: States,
        telemetry: Telemetry,
        *,
        store_of: Callable[[Namespace], SnapshotStore],
    ) -> None:
        self._settings = settings
        self._rankings = rankings
        self._states = states
        self._telemetry = telemetry
        self._store_of = store_of
        #: The namespace whose snapshots are read, and the last number that was seen there.
        self._seen: tuple[Namespace | None, int] = (None, 0)

    async def follow(self) -> None:
        """Look until cancelled. A look that fails is told, and lists go on with the snapshot that is there."""
        seconds = self._settings.snapshot_seconds
        while True:
            try:
                await self.once()
            except Exception as error:  # noqa: BLE001  # whatever S3 does, shoppers get their lists
                self._telemetry.emit(
                    Retried(what="looking for a snapshot", error=str(error), attempt=1, wait_seconds=seconds)
                )
            await asyncio.sleep(seconds)

    async def once(self) -> None:
        """Offer what a later snapshot says, where there is one that this version of the fold made."""
        namespace = self._states.namespace
        number = self._seen[1] if self._seen[0] == namespace else 0
        found = await asyncio.to_thread(self._latest, namespace, number)
        self._seen = namespace, found.number if found else number
        if found is not None and found.version == Trending.version:
            self._rankings.offer(trend_of(found, self._settings.trending))

    def _latest(self, namespace: Namespace, after: int) -> Snapshot | None:
        return self._store_of(namespace).latest(after)
