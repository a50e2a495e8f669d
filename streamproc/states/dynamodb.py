"""States in DynamoDB: one item a key, written in transactions on condition that the stored one is not later.

Client CPU for a state of 1.5 KB is about 490 us with a conditional PutItem and 12 us with TransactWriteItems, which
costs two write units a KB instead of one. A transaction is cancelled whole if one condition fails; the rest is then
sent again without the losers.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.dynamodb import create_table, describe_table, expire_items
from streamproc.errors import (
    NewerState,
    SettingsError,
    StateUnreadable,
    Throttled,
    TransientServiceError,
    code_of,
    translated,
)
from streamproc.state import StoredState, decode_stored, encode_stored

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from streamproc.namespace import Namespace

# "Quotas in Amazon DynamoDB", API-specific limits.
BATCH_GET_KEYS_MAX = 100
TRANSACT_ITEMS_MAX = 100
TRANSACT_BYTES_MAX = 4 * 1024 * 1024
# Keys, attribute names and the encoding of numbers beside the envelope itself.
_ITEM_OVERHEAD_BYTES = 512
# A worker that was down replays from its checkpoint. A week covers an outage of as long.
_EXPIRE_SECONDS_MIN = 7 * 86_400
# The item that says which stream the application reads. No state's key begins so: theirs begin with a stream's name.
_STREAM_KEY = "#stream"


# botocore validates and serializes a request value by value, which takes 80 us a state: longer than folding its events.
# So it is given the first item alone, and the others join it in the body, where msgspec writes them in 2 us each.
def _set_aside(params: dict[str, Any], context: dict[str, Any], **_: Any) -> dict[str, Any]:
    context["streamproc.items"] = params["TransactItems"]
    return {**params, "TransactItems": params["TransactItems"][:1]}


def _put_back(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    body = msgspec.json.decode(params["body"])
    params["body"] = msgspec.json.encode(body | {"TransactItems": context["streamproc.items"]})


class DynamoDBStates:
    """Items of ``<application>-states``. A key without an event for ``expire_after_seconds`` expires; None keeps all.

    ``pk`` is ``<stream>@<its creation>#<key>``; ``body`` is the envelope; ``at_position`` and ``fold_version`` are in
    the conditions; the other attributes are for whoever opens the table, and never read back.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        expire_after_seconds: int | None = None,
        client: DynamoDBClient | None = None,
    ) -> None:
        if expire_after_seconds is not None and expire_after_seconds < _EXPIRE_SECONDS_MIN:
            raise SettingsError(
                f"expire_after_seconds is {expire_after_seconds}: below {_EXPIRE_SECONDS_MIN} a state could expire"
                " between an event and its replay, and the events before it would be folded again"
            )
        self._expire_after_seconds = None if namespace.is_of_partials else expire_after_seconds
        self.table = f"{namespace.application}-states"
        self._prefix = f"{namespace.stream}@{namespace.stream_created_at}#"
        self._client = client or aws_client("dynamodb")
        # The client is shared: by name a handler is registered once.
        hooks = self._client.meta.events
        hooks.register(
            "provide-client-params.dynamodb.TransactWriteItems",
            _set_aside,  # type: ignore[arg-type]  # the stubs do not know that the answer is used
            unique_id="streamproc-aside",
        )
        hooks.register("before-call.dynamodb.TransactWriteItems", _put_back, unique_id="streamproc-back")

    def check(self) -> str:
        """See :class:`streamproc.state.StateStore`."""
        return describe_table(self._client, self.table)

    def prepare(self) -> None:
        """See :class:`streamproc.state.StateStore`."""
        create_table(self._client, self.table, hash_key="pk")
        if self._expire_after_seconds is not None:
            expire_items(self._client, self.table, "expires_at")

    def load(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """See :class:`streamproc.state.StateStore`."""
        loaded = {}
        for start in range(0, len(keys), BATCH_GET_KEYS_MAX):
            for item in self._get(
                [{"pk": {"S": self._prefix + key}} for key in keys[start : start + BATCH_GET_KEYS_MAX]]
            ):
                stored = self._stored(item)
                loaded[stored.key] = stored
        return loaded

    def _get(self, keys: list[Any]) -> Iterator[Any]:
        while keys:
            with translated(f"reading states from {self.table}"):
                answer = self._client.batch_get_item(
                    RequestItems={
                        self.table: {"Keys": keys, "ConsistentRead": True, "ProjectionExpression": "pk, body"}
                    }
                )
            items = answer["Responses"].get(self.table, [])
            yield from items
            unprocessed = answer["UnprocessedKeys"]
            left = unprocessed[self.table]["Keys"] if self.table in unprocessed else []
            if left and not items:
                raise Throttled(f"reading states from {self.table}: none of {len(left)} keys was processed")
            keys = list(left)

    def store(self, states: Sequence[StoredState]) -> set[str]:
        """See :class:`streamproc.state.StateStore`."""
        now = datetime.datetime.now(datetime.UTC)
        superseded: set[str] = set()
        for chunk in self._chunks(states, now):
            superseded |= self._transact(chunk)
        if superseded:
            self._refuse_newer(superseded, states)
        return superseded

    def _chunks(self, states: Sequence[StoredState], now: datetime.datetime) -> Iterator[list[tuple[str, Any]]]:
        chunk: list[tuple[str, Any]] = []
        chunk_bytes = 0
        for stored in states:
            position = stored.position.sortable()
            body = encode_stored(stored, position)
            item_bytes = len(body) + len(stored.key) + _ITEM_OVERHEAD_BYTES
            if chunk and (len(chunk) == TRANSACT_ITEMS_MAX or chunk_bytes + item_bytes > TRANSACT_BYTES_MAX):
                yield chunk
                chunk, chunk_bytes = [], 0
            chunk.append((stored.key, self._put(stored, position, body, now)))
            chunk_bytes += item_bytes
        if chunk:
            yield chunk

    def _put(self, stored: StoredState, sortable: str, body: bytes, now: datetime.datetime) -> Any:
        absent = "attribute_not_exists(pk)"  # the first state of this key
        not_later = (
            "at_position <= :at_position"  # nobody folded further; the same position is our own repeated request
        )
        not_newer = "fold_version <= :fold_version"  # no newer fold wrote it, whose changes we would undo
        item: dict[str, Any] = {}
        if self._expire_after_seconds is not None:
            item["expires_at"] = {"N": str(int(now.timestamp()) + self._expire_after_seconds)}
        position, fold_version = {"S": sortable}, {"N": str(stored.fold_version)}
        return {
            "Put": {
                "TableName": self.table,
                "Item": {
                    **item,
                    "pk": {"S": self._prefix + stored.key},
                    "at_position": position,
                    "fold_version": fold_version,
                    "body": {"B": body},
                    "events_folded": {"N": str(stored.events_folded)},
                    "updated_at": {"S": now.isoformat(timespec="seconds")},
                },
                "ConditionExpression": f"{absent} OR ({not_later} AND {not_newer})",
                "ExpressionAttributeValues": {":at_position": position, ":fold_version": fold_version},
            }
        }

    def _transact(self, chunk: list[tuple[str, Any]]) -> set[str]:
        """Write a chunk; return the keys that lost their condition."""
        superseded: set[str] = set()
        while chunk:
            try:
                with translated(f"writing states to {self.table}"):
                    self._client.transact_write_items(TransactItems=[put for _, put in chunk])
            except SettingsError as error:
                reasons = _cancellation_reasons(error.__cause__)
                lost = {
                    key for (key, _), reason in zip(chunk, reasons, strict=False) if reason == "ConditionalCheckFailed"
                }
                others = {reason for reason in reasons if reason not in ("None", "ConditionalCheckFailed")}
                if others & {"ValidationError", "ItemCollectionSizeLimitExceeded"} or not (lost or others):
                    raise
                if not lost:
                    raise TransientServiceError(
                        f"writing states to {self.table}: {', '.join(sorted(others))}"
                    ) from error
                superseded |= lost
                chunk = [(key, put) for key, put in chunk if key not in lost]
            else:
                break
        return superseded

    def _refuse_newer(self, superseded: set[str], states: Sequence[StoredState]) -> None:
        ours = {stored.key: stored.fold_version for stored in states}
        for key, stored in self.load(sorted(superseded)).items():
            if stored.fold_version > ours[key]:
                raise NewerState(
                    f"the state of {key!r} was written by fold version {stored.fold_version} while this worker, which"
                    f" has {ours[key]}, was running: deploy the newer version here"
                )

    def claim_stream(self, stream: str) -> str:
        """See :class:`streamproc.state.StateStore`."""
        with translated(f"reading {self.table}"):
            answer = self._client.update_item(
                TableName=self.table,
                Key={"pk": {"S": _STREAM_KEY}},
                UpdateExpression="SET #stream = if_not_exists(#stream, :stream)",
                ExpressionAttributeNames={"#stream": "stream"},
                ExpressionAttributeValues={":stream": {"S": stream}},
                ReturnValues="ALL_NEW",
            )
        return answer["Attributes"]["stream"]["S"]

    def scan(self) -> Iterable[StoredState]:
        """See :class:`streamproc.state.StateStore`."""
        with translated(f"reading {self.table}"):
            for page in self._client.get_paginator("scan").paginate(
                TableName=self.table,
                ConsistentRead=True,
                FilterExpression="begins_with(pk, :prefix)",
                ExpressionAttributeValues={":prefix": {"S": self._prefix}},
            ):
                for item in page["Items"]:
                    yield self._stored(item)

    def forget(self, key: str) -> bool:
        """See :class:`streamproc.state.StateStore`."""
        with translated(f"deleting a state from {self.table}"):
            answer = self._client.delete_item(
                TableName=self.table, Key={"pk": {"S": self._prefix + key}}, ReturnValues="ALL_OLD"
            )
        return "Attributes" in answer

    def _stored(self, item: Any) -> StoredState:
        key = item["pk"]["S"].removeprefix(self._prefix)
        try:
            stored = decode_stored(item["body"]["B"])
        except (msgspec.DecodeError, KeyError) as error:
            what = f"its attribute {error} is missing" if isinstance(error, KeyError) else str(error)
            raise self._unreadable(key, what) from error
        if stored.key != key:
            raise self._unreadable(key, f"it says that it is of the key {stored.key!r}")
        return stored

    def _unreadable(self, key: str, what: str) -> StateUnreadable:
        return StateUnreadable(
            f"the state of {key!r} in the table {self.table} cannot be read: {what}. Something else wrote there:"
            f" restore the item {self._prefix + key!r} from a backup, or erase it with `streamproc state forget`"
        )


def _cancellation_reasons(error: BaseException | None) -> list[str]:
    """One code an item, in order, where a transaction was cancelled: "None", "ConditionalCheckFailed", ..."""
    if not isinstance(error, ClientError) or code_of(error) != "TransactionCanceledException":
        return []
    reasons: Any = error.response.get("CancellationReasons", [])
    return [str(reason.get("Code") or "None") for reason in reasons]
