"""What landed, in pieces of lines. Of S3, the next piece is fetched and decompressed while this one is read.

Objects are fetched with boto3 as everything here is: one way to find credentials, regions and a local stack's endpoint,
one translation of errors. Polars' own reader of S3 has its own of each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any, NamedTuple

from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError

from streamproc.aws import aws_client
from streamproc.errors import SettingsError, translated
from streamproc.landed import GZIP, S3, Landed, listed, nothing_landed, parted

#: Bytes of text in a piece, and of an object's bytes that are asked for at once. What is read of so much text fits into
#: a core's caches: pieces of 32 MB take a third more time.
PIECE_BYTES = 512 * 1024
_READ_BYTES = PIECE_BYTES
#: Firehose's records end at 1 MB: longer lines are something else, and are not to be held as a whole.
_RECORD_BYTES_MAX = 2 * 1024 * 1024
#: Pieces that wait to be read.
_AHEAD = 16


class Piece(NamedTuple):
    """A part of an object's text, cut between lines."""

    #: Index of the object in the listing.
    number: int
    text: bytes
    #: How many bytes of the object, as it is stored, were read for it.
    stored_bytes: int
    is_first: bool
    is_last: bool
    #: Why the text ends before the object does; None where it does not.
    cut: str | None = None


def objects_in(address: str) -> list[Landed]:
    """What is :func:`streamproc.landed.listed` there. Raises SettingsError for nothing."""
    # Consoles make a "folder" by an empty object of its name.
    found = [each for each in listed(address) if each.size or not each.name.endswith("/")]
    if not found:
        raise SettingsError(nothing_landed(address))
    return found


def pieces(objects: Sequence[Landed], separator: bytes) -> Iterator[Piece]:
    """The text of all objects in their order. ``separator`` begins a record where no newline does: ``{"field":``.

    A thread fetches ahead from S3; it ends with this iterator. Files are read ahead by the system already, and to hand
    pieces over takes longer than to read them. Raises what reading raises.
    """
    if not any(each.name.startswith(S3) for each in objects):
        for number, each in enumerate(objects):
            yield from of_object(number, each, separator)
        return
    queue: Queue[Piece | BaseException | None] = Queue(_AHEAD)
    stopped = threading.Event()

    def put(piece: Piece | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                queue.put(piece, timeout=0.2)
                return

    def fetch() -> None:
        try:
            for number, each in enumerate(objects):
                for piece in of_object(number, each, separator):
                    put(piece)
                    if stopped.is_set():
                        return
            put(None)
        except BaseException as error:  # noqa: BLE001  # raised again where the pieces are read
            put(error)

    thread = threading.Thread(target=fetch, name="audit-fetch", daemon=True)
    thread.start()
    try:
        while (piece := queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stopped.set()
        thread.join()


def of_object(number: int, landed: Landed, separator: bytes) -> Iterator[Piece]:
    """The text of one object; there is always a last piece, which may be empty."""
    cutter = _Cutter(separator)
    first, taken, why = True, 0, None
    text = _Text()
    for block in _blocks(landed):
        taken += len(block)
        for part in text.add(block):
            if piece := cutter.add(part):
                yield Piece(number, piece, taken, first, is_last=False)
                first, taken = False, 0
        if text.broken:
            break
    why = text.broken or text.unfinished()
    yield Piece(number, cutter.rest(), taken, first, is_last=True, cut=why)


class _Text:
    """The decompressed bytes of an object: gzip, of one or many members, or plain, as its first bytes tell."""

    def __init__(self) -> None:
        self._gzip: IgzipDecompressor | None = None
        self._begun = False
        self.broken: str | None = None

    def add(self, block: bytes) -> Iterator[bytes]:
        if not self._begun:
            self._begun = True
            self._gzip = _member() if block.startswith(GZIP) else None
        if self._gzip is None:
            yield block
            return
        try:
            while True:
                if self._gzip.eof:
                    if not block.strip(b"\0"):  # padding after the last member is allowed
                        return
                    self._gzip = _member()
                yield self._gzip.decompress(block, PIECE_BYTES)
                if not self._gzip.eof and self._gzip.needs_input:
                    return
                block = self._gzip.unused_data if self._gzip.eof else b""
        except IsalError as error:  # type: ignore[misc] # the stubs take the class for an instance
            self.broken = f"cannot be decompressed: {error}"

    def unfinished(self) -> str | None:
        return "the gzip stream is cut" if self._gzip is not None and not self._gzip.eof else None


def _member() -> IgzipDecompressor:
    return IgzipDecompressor(flag=DECOMP_GZIP)


class _Cutter:
    """Collects text to pieces that end with a record."""

    def __init__(self, separator: bytes) -> None:
        self._joint = b"}" + separator
        self._parts: list[bytes] = []
        self._bytes = 0

    def add(self, part: bytes) -> bytes | None:
        self._bytes += len(part)
        if self._bytes < PIECE_BYTES:
            self._parts.append(part)
            return None
        cut = part.rfind(b"\n") + 1
        if not cut:
            # A joint can lie across two parts.
            self._parts, part = [], b"".join([*self._parts, part])
            cut = part.rfind(self._joint) + 1
            if not cut and len(part) > _RECORD_BYTES_MAX:
                cut = len(part)
        piece = b"".join([*self._parts, memoryview(part)[:cut]]) if cut else None
        if cut:
            self._parts = []
        self._parts.append(part[cut:])
        self._bytes = sum(map(len, self._parts))
        return piece

    def rest(self) -> bytes:
        return b"".join(self._parts)


def _blocks(landed: Landed) -> Iterator[bytes]:
    if not landed.name.startswith(S3):
        try:
            with Path(landed.name).open("rb") as file:
                while block := file.read(_READ_BYTES):
                    yield block
        except OSError as error:
            raise SettingsError(f"{landed.name} cannot be read: {error.strerror}") from error
        return
    bucket, key = parted(landed.name)
    with translated(f"reading {landed.name}"):
        answer: Any = aws_client("s3").get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]) as body:
            while block := body.read(_READ_BYTES):
                yield block
