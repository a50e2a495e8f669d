"""Finds leaks: training rows that depend on what came after the moment they are of.

The check needs no knowledge of any feature. The log is built into labelled rows twice, once as it is and once with
everything from a moment on exchanged for other events. The rows of baskets before that moment must be equal, bit for
bit; a column that differs has seen the future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec
import numpy as np

from streamproc_models.baskets import has_purchases, replay
from streamproc_models.features import features_of
from streamproc_models.training.episodes import Episode, episodes_of, first_state_needed
from streamproc_models.training.examples import joined
from streamproc_models.training.settings import TrainingSettings
from streamproc_producers.events import CartEvent

#: Builds the episodes of a log before a time, seconds since the epoch.
Build = Callable[[Sequence[CartEvent], float, TrainingSettings], list[Episode]]


def build_episodes(log: Sequence[CartEvent], cut: float, settings: TrainingSettings) -> list[Episode]:
    """As training does."""
    orders = has_purchases(log)
    baskets = replay(log, states_from=first_state_needed(cut, settings), orders=orders)
    return episodes_of(log, baskets, cut, settings, lambda _what, _done, _total: None, items={}, orders=orders)


def find_leaks(
    log: Sequence[CartEvent],
    cut: float,
    settings: TrainingSettings,
    build: Build = build_episodes,
) -> list[str]:
    """The features that know the future, by name; ``"rows"`` where even the candidates or the labels do.

    What is exchanged is the second half of each episode, so that the rows of its first half must not notice.
    """
    before = build(log, cut, settings)
    leaks: dict[str, None] = {}
    for number, episode in enumerate(before):
        times = sorted(basket.at for basket in episode.warm)
        if len(times) < 2:
            continue
        moment = times[len(times) // 2]
        after = build(_exchanged(log, moment), cut, settings)
        names = [feature.name for feature in features_of(episode.catalogue.generator_names)]
        for name in _differences(episode, after[number], moment, names, settings):
            leaks[name] = None
    return list(leaks)


def _exchanged(log: Sequence[CartEvent], moment: float) -> list[CartEvent]:
    """The log with other items, and later times, from the moment on; the same users at about the same time."""
    future = [index for index, event in enumerate(log) if event.at >= moment]
    items = [log[index].item_id for index in future]
    other = dict(zip(future, [*items[1:], *items[:1]], strict=True))
    return [
        msgspec.structs.replace(event, item_id=other[index], price=None, ts=event.ts + timedelta(seconds=1))
        if index in other
        else event
        for index, event in enumerate(log)
    ]


def _differences(
    one: Episode, other: Episode, moment: float, names: Sequence[str], settings: TrainingSettings
) -> list[str]:
    found = []
    for episode in (one, other):
        early = [basket for basket in episode.warm if basket.at < moment]
        kept = msgspec.structs.replace(episode, cold=[], warm=early)
        rows = joined(kept.examples(settings, np.random.default_rng(0)))
        order = {item_id: code for code, item_id in enumerate(episode.catalogue.ids)}
        found.append((rows, order))
    (left, left_codes), (right, right_codes) = found
    if left_codes != right_codes or left.rows.shape != right.rows.shape:
        return ["rows"]
    if left.labels.tobytes() != right.labels.tobytes():
        return ["rows"]
    differ = (left.rows != right.rows).any(axis=0)
    return [name for name, leaked in zip(names, differ.tolist(), strict=True) if leaked]
