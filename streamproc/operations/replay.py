"""``streamproc deadletter replay`` and ``drop``: what becomes of dead letters."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.clock import SystemClock, backoff
from streamproc.deadletter import DeadLetter, DeadLetterStore, Kind, Status
from streamproc.errors import SettingsError, Throttled, is_transient, translated
from streamproc.namespace import Namespace
from streamproc.operations.common import (
    LIST_COLUMNS_MIN,
    confirm,
    counting,
    exit_codes,
    namespace_of,
    of_application,
    position_of,
    print_table,
    table_of,
    time_text,
)
from streamproc.readable import plain
from streamproc.replayed import wrap
from streamproc.sink import Sink

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import PutRecordInputTypeDef
    from rich.table import Table

T = TypeVar("T")

KIND = click.Choice([kind.value for kind in Kind])
#: How long a service that throttles or does not answer is tried again before the command gives up.
PATIENCE_SECONDS = 60.0
_RECORD_KIB_MAX = 1024


class NotReplayed(Exception):
    """Why an entry stays as it is: a sentence for a person. The others go on."""


def letters_table(letters: Sequence[DeadLetter]) -> Table:
    """A row an entry."""
    table = table_of("position", "kind", "status", "key", "field", "arrived", "reason")
    for letter in letters:
        table.add_row(
            str(letter.position),
            letter.kind,
            letter.status,
            plain(letter.partition_key),
            plain(letter.field or ""),
            time_text(letter.arrived_at),
            plain(letter.reason),
        )
    return table


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the dead letters that it is told to work on, in log order, without their data."""

    @click.argument("positions", nargs=-1, metavar="[POSITION]...")
    @click.option("--all", "everything", is_flag=True, help="Every open one that the next two options leave.")
    @click.option("--kind", type=KIND, help="Only these.")
    @click.option("--reason-contains", metavar="TEXT", help="Only those with this text in their reason.")
    @functools.wraps(command)
    def with_letters(
        application: Application,
        positions: tuple[str, ...],
        everything: bool,
        kind: str | None,
        reason_contains: str | None,
        **options: Any,
    ) -> None:
        if bool(positions) == everything:
            raise SettingsError("give the positions that `streamproc deadletter list` names, or --all, and not both")
        namespace = namespace_of(application)
        store = application.deadletters(namespace)

        def wanted(letter: DeadLetter) -> bool:
            return kind in (None, letter.kind) and (reason_contains or "") in letter.reason

        letters: list[DeadLetter] = []
        for text in positions:
            found = [letter for letter in store.find(position_of(text), with_data=False) if wanted(letter)]
            if not found:
                raise SettingsError(f"there is no such dead letter at {text}; `streamproc deadletter list` names them")
            letters += found
        if everything:
            scanned = store.scan(with_data=False)
            letters = [letter for letter in scanned if letter.status is Status.OPEN and wanted(letter)]
        unique = {_identity(letter): letter for letter in letters}
        command(
            application,
            namespace=namespace,
            store=store,
            letters=[unique[identity] for identity in sorted(unique)],
            everything=everything,
            reason_contains=reason_contains,
            **options,
        )

    return with_letters


def _identity(letter: DeadLetter) -> tuple[Any, ...]:
    return letter.position, letter.kind, letter.ordinal


@click.command(epilog=exit_codes("one could not be replayed; the others were"))
@of_application
@_selecting
@click.option("--dry-run", is_flag=True, help="Show what would be replayed.")
@click.option("--yes", is_flag=True, help="Do not ask, with --all.")
def replay(
    application: Application,
    *,
    namespace: Namespace,
    store: DeadLetterStore,
    letters: list[DeadLetter],
    everything: bool,
    reason_contains: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Put records that were put aside back into the stream, and publish outputs.

    Mend the cause first: a record that fails again is put aside again, where it stands then. A record goes behind what
    its key did since. A worker of this application folds it once, however often this command is repeated; its entry
    shows as replayed then.

    \b
    Examples:
      streamproc deadletter replay -A shop.app:app shardId-000000000000:4966...:0
      streamproc deadletter replay -A shop.app:app --all --reason-contains 'fold failed' --dry-run
      streamproc deadletter replay -A shop.app:app --all --kind emission --yes
    """
    del reason_contains
    if not letters:
        click.echo("No open dead letters.", err=True)
        return
    if dry_run:
        print_table(letters_table(letters), LIST_COLUMNS_MIN)
        click.echo(f"{len(letters)} dead letters would be replayed.", err=True)
        return
    if everything:
        confirm(f"Replay {len(letters)} dead letters?", yes=yes, unattended=False)
    replaying = _Replaying(application, namespace, store)
    failed = 0
    try:
        with counting("dead letters", len(letters)) as count:
            for letter in letters:
                try:
                    replaying.replay(letter)
                except NotReplayed as error:
                    failed += 1
                    click.echo(f"{letter.position} {letter.kind}: {error}", err=True)
                count(1)
    finally:
        # Also where a service gave up in the middle: what was done is done, and repeating it does no harm.
        replaying.report()
    if failed:
        raise click.exceptions.Exit(1)


class _Replaying:
    """One run of the command."""

    def __init__(self, application: Application, namespace: Namespace, store: DeadLetterStore) -> None:
        self._application = application
        self._namespace = namespace
        self._store = store
        self._done: Counter[Kind] = Counter()
        self._last_of_key: dict[str, str] = {}

    def replay(self, selected: DeadLetter) -> None:
        """Replay one, as it stands now. Raises NotReplayed."""
        try:
            letters = _patiently(lambda: self._store.find(selected.position))
        except SettingsError as error:  # its data is gone; the others can be replayed
            raise NotReplayed(str(error)) from error
        found = [letter for letter in letters if _identity(letter) == _identity(selected)]
        if not found:
            raise NotReplayed("it was erased meanwhile")
        (letter,) = found
        if letter.status is Status.DROPPED:
            raise NotReplayed("it was dropped")
        if letter.status is Status.REPLAYED:
            at = "" if letter.replayed_at is None else f" at {letter.replayed_at}"
            click.echo(f"{letter.position} {letter.kind}: replayed{at} already", err=True)
            return
        if letter.kind is Kind.EVENT:
            self._put(letter)
        elif letter.kind is Kind.EMISSION:
            self._publish(letter)
        else:
            raise NotReplayed(
                "the event is in its key's state, so that it cannot be folded again; what it lacks is its share in the"
                " values across keys. Drop it"
            )
        self._done[letter.kind] += 1

    def report(self) -> None:
        """Say what was done."""
        records, outputs = self._done[Kind.EVENT], self._done[Kind.EMISSION]
        if records:
            click.echo(
                f"{records} {'record' if records == 1 else 'records'} put; `streamproc deadletter list --status all`"
                " shows them as replayed once a worker has folded them."
            )
        if outputs:
            click.echo(f"{outputs} {'output' if outputs == 1 else 'outputs'} published.")
        if not records and not outputs:
            click.echo("Nothing was replayed.")

    def _put(self, letter: DeadLetter) -> None:
        key = letter.partition_key
        data = wrap(self._namespace, letter.position, letter.data)
        record_bytes, bytes_max = len(data) + len(key.encode()), self._record_bytes_max
        if record_bytes > bytes_max:
            raise NotReplayed(
                f"with its envelope and its partition key the record has {record_bytes} bytes, and the stream takes"
                f" {bytes_max}: raise its maximum record size (UpdateMaxRecordSize), or drop it"
            )
        request: PutRecordInputTypeDef = {
            "StreamName": self._application.stream,
            "Data": data,
            "PartitionKey": key,
        }
        if key in self._last_of_key:
            # One call after the other is not enough: only this makes the numbers of a key grow, says the API's page.
            request["SequenceNumberForOrdering"] = self._last_of_key[key]

        def put() -> str:
            with translated(f"putting {letter.position} back into the stream {self._application.stream!r}"):
                return self._kinesis.put_record(**request)["SequenceNumber"]

        self._last_of_key[key] = _patiently(put)

    def _publish(self, letter: DeadLetter) -> None:
        if not letter.data:
            raise NotReplayed(
                "there is no output to publish, since emit failed. The key's next event emits again: drop it"
            )
        sink = self._sink

        def publish() -> None:
            delivery = sink.publish([letter.data])
            for _, reason in delivery.refused:
                raise NotReplayed(f"refused again: {reason}")
            if delivery.pending:
                raise Throttled(f"publishing {letter.position}: {delivery.error}")

        _patiently(publish)
        if not _patiently(lambda: self._store.mark_replayed(letter)):
            raise NotReplayed("it was published, and dropped meanwhile")

    @functools.cached_property
    def _kinesis(self) -> KinesisClient:
        return aws_client("kinesis")

    @functools.cached_property
    def _record_bytes_max(self) -> int:
        with translated(f"describing the stream {self._application.stream!r}"):
            summary = self._kinesis.describe_stream_summary(StreamName=self._application.stream)
        return summary["StreamDescriptionSummary"].get("MaxRecordSizeInKiB", _RECORD_KIB_MAX) * 1024

    @functools.cached_property
    def _sink(self) -> Sink:
        if self._application.sink is None:
            raise NotReplayed("the application names no sink, so there is nowhere to publish it")
        return self._application.sink(self._namespace)


def _patiently(call: Callable[[], T]) -> T:
    """Call until it succeeds, as long as its errors pass and for PATIENCE_SECONDS at most."""
    clock, never = SystemClock(), threading.Event()
    deadline = time.monotonic() + PATIENCE_SECONDS
    for seconds in backoff():
        try:
            return call()
        except Exception as error:
            if not is_transient(error) or time.monotonic() + seconds > deadline:
                raise
        clock.wait(seconds, never)
    raise AssertionError("backoff() has no end")


@click.command(epilog=exit_codes("one was replayed before; the others are dropped"))
@of_application
@_selecting
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(
    application: Application,
    *,
    namespace: Namespace,
    store: DeadLetterStore,
    letters: list[DeadLetter],
    everything: bool,
    reason_contains: str | None,
    yes: bool,
) -> None:
    """Give up dead letters: their records are never folded, and their outputs never published.

    The entries stay, and show as dropped. A copy that `replay` put and no worker has met yet is not folded.

    \b
    Examples:
      streamproc deadletter drop -A shop.app:app shardId-000000000000:4966...:0
      streamproc deadletter drop -A shop.app:app --all --reason-contains 'not JSON' --yes
    """
    del application, namespace
    if everything and reason_contains is None:
        raise SettingsError("--all drops what --reason-contains selects: give it a text, or '' for every open one")
    if not letters:
        click.echo("No open dead letters.", err=True)
        return
    named = "this dead letter" if len(letters) == 1 else f"{len(letters)} dead letters"
    confirm(f"Drop {named}? What was put aside is then never folded or published.", yes=yes, unattended=not everything)
    dropped = 0
    with counting("dead letters", len(letters)) as count:
        for letter in letters:
            if _patiently(functools.partial(store.drop, letter)):
                dropped += 1
            else:
                click.echo(f"{letter.position} {letter.kind}: it was replayed before", err=True)
            count(1)
    click.echo(f"{dropped} dropped.")
    if dropped < len(letters):
        raise click.exceptions.Exit(1)
