"""``streamproc state diff --archive``: every durable state against one fold of the archived log.

The archive has every event that could be decoded, with its position, as lines of JSON; see
``streamproc_consumers.archive``. Firehose delivers at least once and in no strict order, so the lines are sorted by key
and position first, on disk, and one that comes twice counts once.
"""

from __future__ import annotations

import enum
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from streamproc.application import Application
from streamproc.deadletter import DeadLetterStore, Kind
from streamproc.errors import SettingsError
from streamproc.fold import KeyStates
from streamproc.landed import raw_lines
from streamproc.namespace import Namespace
from streamproc.operations.common import PART_KEYS, counting, parts, print_table, table_of
from streamproc.processor import KeyedProcessor, Received
from streamproc.readable import plain
from streamproc.record import Position, Record, shard_number_of
from streamproc.settings import WorkerSettings
from streamproc.state import StoredState, decode_stored, encode_stored

#: How many keys of each kind are named.
KEYS_NAMED = 20


class Verdict(enum.StrEnum):
    """How a durable state stands to the fold of its key's archived events."""

    EQUAL = "equal"
    DIFFERENT = "different"
    #: The state's last event is not in the archive: Firehose still holds it, or the archive is another stream's.
    NOT_ARCHIVED = "not archived"
    #: The other way round: archived events of a key without a durable state.
    NOT_STORED = "not stored"


_MEANING = {
    Verdict.EQUAL: "",
    Verdict.DIFFERENT: "not what the archived events give",
    Verdict.NOT_ARCHIVED: "the state's last event is not in the archive (yet)",
    Verdict.NOT_STORED: "behind the last checkpoint, expired or forgotten",
}


class _LinePosition(msgspec.Struct, frozen=True):
    shard_id: str
    sequence_number: str
    sub_sequence_number: int


class _Line(msgspec.Struct, frozen=True):
    """What is read of a line of the archive."""

    position: _LinePosition
    event: msgspec.Raw


_decoder = msgspec.json.Decoder(_Line)


class ArchivedLog:
    """The archived events by key in log order, less the dead letters, and the durable states to compare them with.

    The states must be added first, then the dead letters, then the archive: what is put aside is durable before a state
    that is later, so that each state meets every dead letter that it does without, while workers run.
    """

    def __init__(self, processor: KeyedProcessor[Any, Any, Any], settings: WorkerSettings) -> None:
        self._processor = processor
        self._settings = settings
        # A name of nothing is SQLite's temporary database: in memory as long as it is small, then in a file that is
        # deleted with the connection.
        self._sqlite = sqlite3.connect("", isolation_level=None)
        self._sqlite.execute(
            "CREATE TABLE log (key TEXT, position TEXT, data BLOB, PRIMARY KEY (key, position)) WITHOUT ROWID"
        )
        self._sqlite.execute("CREATE TABLE stored (key TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID")
        self._sqlite.execute("PRAGMA journal_mode = OFF")
        self._put_aside: set[Position] = set()

    def add_state(self, stored: StoredState) -> None:
        """Add a durable state, to be judged."""
        self._sqlite.execute("INSERT OR REPLACE INTO stored VALUES (?, ?)", (stored.key, encode_stored(stored)))

    def states(self) -> Iterator[StoredState]:
        """The durable states that were added."""
        return (decode_stored(body) for (body,) in self._sqlite.execute("SELECT body FROM stored"))

    def add_dead_letters(self, letters: DeadLetterStore) -> None:
        """Leave out the events that were put aside, and take the replayed ones where they were claimed.

        A replayed event that was put aside again is an entry at the place of the replay, and so left out there, too.
        """
        entries = [letter for letter in letters.scan(with_data=False) if letter.kind is Kind.EVENT]
        self._put_aside |= {letter.position for letter in entries}
        for entry in entries:
            at = entry.replayed_at
            if at is not None:
                (letter,) = [each for each in letters.find(entry.position) if each.kind is Kind.EVENT]
                self.add(at, letter.data, f"the dead letter {letter.position}")

    def add(self, position: Position, data: bytes, where: str) -> None:
        """Add an event, unless it is there or was put aside. ``where`` is named where it cannot be decoded."""
        if position in self._put_aside:
            return
        try:
            key = self._processor.key(self._processor.decode(data))
        except Exception as error:
            raise SettingsError(
                f"{where}: the application cannot decode the event ({type(error).__name__}: {plain(str(error))}), and"
                " it is none of its dead letters: is the archive of this stream?"
            ) from error
        self._sqlite.execute("INSERT OR IGNORE INTO log VALUES (?, ?, ?)", (key, position.sortable(), data))

    def judge(self, stored: StoredState) -> tuple[Verdict, str]:
        """Compare a durable state with the fold of its key's events up to its position; say what differs."""
        received = self._events(stored.key, stored.position)
        if stored.position not in self._put_aside and not (
            received and received[-1].record.position == stored.position
        ):
            return Verdict.NOT_ARCHIVED, ""
        folded = self._fold(stored.key, received)
        if folded is None:
            return Verdict.DIFFERENT, f"events folded: {stored.events_folded}, and 0 by the archive"
        if folded.events_folded != stored.events_folded:
            return (
                Verdict.DIFFERENT,
                f"events folded: {stored.events_folded}, and {folded.events_folded} by the archive",
            )
        if (folded.ids_hash, folded.window) != (stored.ids_hash, stored.window):
            return Verdict.DIFFERENT, f"{stored.events_folded} events folded, but others, or in another order"
        # Only one fold's bytes can be told apart: an older state is migrated with its key's next event.
        if folded.fold_version == stored.fold_version and folded.state != stored.state:
            return Verdict.DIFFERENT, "the same events folded, and another state"
        return Verdict.EQUAL, ""

    def not_stored(self) -> tuple[int, list[str]]:
        """How many keys have archived events and no durable state, and the first of them."""
        others = "FROM (SELECT DISTINCT key FROM log EXCEPT SELECT key FROM stored)"
        ((count,),) = self._sqlite.execute(f"SELECT count(*) {others}")
        first = self._sqlite.execute(f"SELECT key {others} LIMIT ?", (KEYS_NAMED,))
        return count, [key for (key,) in first]

    def _events(self, key: str, up_to: Position) -> list[Received[Any]]:
        rows = self._sqlite.execute(
            "SELECT position, data FROM log WHERE key = ? AND position <= ? ORDER BY position", (key, up_to.sortable())
        )
        decode = self._processor.decode
        return [
            Received(decode(data), Record(data, key, Position.parse(position), arrived_at=0.0))
            for position, data in rows
        ]

    def _fold(self, key: str, received: list[Received[Any]]) -> StoredState | None:
        states = KeyStates(self._processor, self._settings)
        states.admit([key], {})
        states.fold({key: received})
        committed = states.commit()
        return committed[0] if committed else None


def compare_with_archive(application: Application, namespace: Namespace, archive: str) -> None:
    """Print how every durable state stands to the archive. Raises Exit with 1 where one differs, or none is equal."""
    processor = application.processor()
    if not isinstance(processor, KeyedProcessor):
        raise SettingsError(f"the application {application.name!r} keeps no states to compare")
    log = ArchivedLog(processor, application.worker)
    with counting("states") as count:
        for part in parts(application.states(namespace).scan(), PART_KEYS):
            for stored in part:
                log.add_state(stored)
            count(len(part))
    log.add_dead_letters(application.deadletters(namespace))
    with counting("archived events") as count:
        for line in raw_lines(archive):
            where = f"{line.name}, line {line.number}"
            log.add(*_parsed(where, line.data), where)
            count(1)
    counts: Counter[Verdict] = Counter()
    keys: dict[Verdict, list[str]] = defaultdict(list)
    for stored in log.states():
        verdict, why = log.judge(stored)
        counts[verdict] += 1
        if verdict is not Verdict.EQUAL and len(keys[verdict]) < KEYS_NAMED:
            keys[verdict].append(plain(stored.key) + (f" ({why})" if why else ""))
    total = counts.total()
    counts[Verdict.NOT_STORED], not_stored = log.not_stored()
    keys[Verdict.NOT_STORED] = [plain(key) for key in not_stored]
    table = table_of("archived", "states", "", "first keys")
    for each in Verdict:
        table.add_row(each, str(counts[each]), _MEANING[each] if counts[each] else "", ", ".join(keys[each]))
    print_table(table)
    if counts[Verdict.DIFFERENT] or (total and not counts[Verdict.EQUAL]):
        raise click.exceptions.Exit(1)


def _parsed(where: str, line: bytes) -> tuple[Position, bytes]:
    try:
        read = _decoder.decode(line)
        at = read.position
        position = Position(shard_number_of(at.shard_id), int(at.sequence_number), at.sub_sequence_number)
    except (msgspec.DecodeError, ValueError, SettingsError) as error:
        raise SettingsError(
            f"{where} is no line of the archive: {plain(str(error))}. A line is an object with the fields position"
            " (shard_id, sequence_number, sub_sequence_number) and event"
        ) from error
    return position, bytes(read.event)
