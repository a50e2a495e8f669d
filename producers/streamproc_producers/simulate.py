"""A shop that never was: shoppers, sessions and carts from a seed, on a clock of its own."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import accumulate, count
from uuid import UUID

import msgspec

from streamproc.errors import SettingsError
from streamproc_producers.events import CartEvent, EventType, utc

#: Popularity falls with the rank to this power; 1 is Zipf's law.
_SKEW = 1.05
#: Items come in groups that are looked at together, so that there is something to recommend.
_GROUP_ITEMS = 12
#: Probabilities, at each view: to stay in the group, to add the item, to take one out, to leave; and to buy at the end.
_STAYS, _ADDS, _REMOVES, _LEAVES, _BUYS = 0.6, 0.35, 0.06, 0.12, 0.55
_SECONDS_BETWEEN_ACTIONS = 20.0
#: What these figures come to: 1 / _LEAVES views, and what follows from them. A test holds the rate that they give.
_EVENTS_PER_SESSION = 12.8
_SECONDS_PER_SESSION = 230.0


class Shop(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated."""

    users: int = 1000
    items: int = 500
    #: Events a second of event time, over all users.
    rate: float = 50.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("users", "items", "rate"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be above 0, or nothing would happen")


def simulate(shop: Shop, start: datetime, event_ids: Callable[[], UUID] | None = None) -> Iterator[CartEvent]:
    """The events of a shop from ``start`` on, in order of event time, without end.

    Sessions begin at random (a Poisson process). In each, one user views items, most of them near the last one; puts
    some into the cart and takes some out; and leaves, with a purchase of what is in the cart or without. Users and
    items are skewed by Zipf's law.

    One seed gives one history, ids included. Sent to a stream twice, such events would be duplicates; ``event_ids``
    makes other ids.
    """
    rng = random.Random(shop.seed)
    # Ids have their own source: whether they are drawn must not change the history.
    id_rng = random.Random(f"ids of {shop.seed}")
    visits = _Visits(shop, rng, event_ids or (lambda: UUID(int=id_rng.getrandbits(128), version=4)))
    sessions_per_second = shop.rate / _EVENTS_PER_SESSION
    #: The next event of each session under way, the earliest first; the number decides between equal times.
    under_way: list[tuple[float, int, CartEvent, Iterator[CartEvent]]] = []
    numbers = count()

    def begin(at: float) -> None:
        number = next(numbers)
        visit = visits.visit(number, at)
        first = next(visit)
        heapq.heappush(under_way, (first.at, number, first, visit))

    # The shop is open already. Leaving does not depend on how long one stayed, so a session that is under way at the
    # start is like a new one, but for its cart.
    opened_at = next_visit_at = start.timestamp()
    for _ in range(round(sessions_per_second * _SECONDS_PER_SESSION)):
        begin(opened_at + rng.expovariate(1 / _SECONDS_BETWEEN_ACTIONS))
    while True:
        while not under_way or next_visit_at <= under_way[0][0]:
            begin(next_visit_at)
            next_visit_at += rng.expovariate(sessions_per_second)
        _, number, event, visit = under_way[0]
        yield event
        following = next(visit, None)
        if following is None:
            heapq.heappop(under_way)
        else:
            heapq.heapreplace(under_way, (following.at, number, following, visit))


class _Visits:
    """What a shopper does between coming and leaving."""

    def __init__(self, shop: Shop, rng: random.Random, event_ids: Callable[[], UUID]) -> None:
        self._shop = shop
        self._rng = rng
        self._event_ids = event_ids
        self._users = _zipf(shop.users)
        self._items = _zipf(shop.items)
        self._prices = [round(rng.lognormvariate(1.2, 0.8) + 0.2, 2) for _ in range(shop.items)]

    def visit(self, number: int, at: float) -> Iterator[CartEvent]:
        """One session, from the first view, at ``at`` (seconds since the epoch), to the last event."""
        rng = self._rng
        user_id = f"user-{rng.choices(range(self._shop.users), cum_weights=self._users)[0]}"

        def event(event_type: EventType, item: int, quantity: int | None = None, order: str | None = None) -> CartEvent:
            return CartEvent(
                event_id=self._event_ids(),
                event_type=event_type,
                user_id=user_id,
                item_id=f"item-{item}",
                ts=utc(at),
                session_id=f"session-{self._shop.seed}-{number}",
                order_id=order,
                quantity=quantity,
                price=self._prices[item],
            )

        cart: dict[int, int] = {}
        item = self._any_item()
        while True:
            yield event(EventType.VIEW, item)
            if rng.random() < _ADDS:
                at += rng.expovariate(1 / _SECONDS_BETWEEN_ACTIONS)
                quantity = rng.choice((1, 1, 1, 2, 3))
                cart[item] = cart.get(item, 0) + quantity
                yield event(EventType.ADD_TO_CART, item, quantity)
            if cart and rng.random() < _REMOVES:
                at += rng.expovariate(1 / _SECONDS_BETWEEN_ACTIONS)
                removed = rng.choice(list(cart))
                yield event(EventType.REMOVE_FROM_CART, removed, cart.pop(removed))
            at += rng.expovariate(1 / _SECONDS_BETWEEN_ACTIONS)
            if rng.random() < _LEAVES:
                break
            item = self._item_near(item) if rng.random() < _STAYS else self._any_item()
        if cart and rng.random() < _BUYS:
            for bought, quantity in cart.items():
                yield event(EventType.PURCHASE, bought, quantity, f"order-{self._shop.seed}-{number}")

    def _any_item(self) -> int:
        return self._rng.choices(range(self._shop.items), cum_weights=self._items)[0]

    def _item_near(self, item: int) -> int:
        first = item - item % _GROUP_ITEMS
        return self._rng.randrange(first, min(first + _GROUP_ITEMS, self._shop.items))


def _zipf(size: int) -> list[float]:
    """Cumulative weights by rank."""
    return list(accumulate(1 / rank**_SKEW for rank in range(1, size + 1)))
