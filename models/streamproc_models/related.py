"""What goes with an item: the generators of the bundle, asked for a shopper who has touched that item alone."""

from __future__ import annotations

import uuid
from collections import defaultdict
from datetime import UTC, datetime

from streamproc_models.candidates import POPULAR
from streamproc_models.features import fold, new_state
from streamproc_models.features.columns import gather
from streamproc_models.scorer import Model, RankedItem
from streamproc_producers.events import CartEvent, EventType

#: Added to a rank before it is inverted (Cormack et al., "Reciprocal Rank Fusion", SIGIR 2009).
_FUSION = 60.0
_SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def related(model: Model, item_id: str, k: int = 10) -> list[RankedItem]:
    """The ``k`` items that go best with an item, the best first: the generators' ranks, fused.

    ``probability`` is the share of the best possible fused rank. Where the bundle does not know the item, or no
    generator links it, the most popular ones follow (source "popular", probability 0).
    """
    catalogue = model.catalogue
    items = len(catalogue)
    touched = CartEvent(
        event_id=uuid.UUID(int=0), event_type=EventType.PURCHASE, user_id="", item_id=item_id, ts=_SOME_TIME
    )
    columns = gather([fold(new_state(), touched)], catalogue.codes)
    own = catalogue.codes.get(item_id)
    fused: defaultdict[int, float] = defaultdict(float)
    source_of: dict[int, str] = {}
    for generator in catalogue.generators:
        # One more than wanted: the item itself may be among them.
        for rank, code in enumerate(generator.scored(columns, items).top(items, k + 1).keys.tolist(), 1):
            if code != own:
                fused[code] += 1 / (_FUSION + rank)
                source_of.setdefault(code, generator.name)
    best = sorted(fused, key=lambda code: (-fused[code], code))[:k]
    most = len(catalogue.generators) / (_FUSION + 1)
    for code in range(min(items, 2 * k + 1)):
        if len(best) < k and code != own and code not in fused:
            best.append(code)
    return [
        RankedItem(
            catalogue.ids[code],
            catalogue.names[code],
            fused[code] / most if code in source_of else 0.0,
            source_of.get(code, POPULAR),
            rank,
        )
        for rank, code in enumerate(best, 1)
    ]
