"""What separates one application's rows from another's."""

from __future__ import annotations

import msgspec


class Namespace(msgspec.Struct, frozen=True):
    """An application on a stream. A stream made anew under the same name is another one, by its creation timestamp."""

    application: str
    stream: str
    #: The stream's creation timestamp, whole seconds since the epoch.
    stream_created_at: int

    def of_partials(self) -> Namespace:
        """Where the partials of the shards are kept, in the tables of the states; see :mod:`streamproc.partial`.

        Kinesis allows no '#' in a stream's name, so that no key can have the name of a partial.
        """
        return Namespace(self.application, f"{self.stream}#partials", self.stream_created_at)

    @property
    def is_of_partials(self) -> bool:
        """Whether this is what :meth:`of_partials` gave. Partials never expire: a closed shard's still counts."""
        return self.stream.endswith("#partials")

    def __str__(self) -> str:
        return f"{self.application}/{self.stream}@{self.stream_created_at}"
