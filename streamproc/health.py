"""Whether a host is healthy and ready: two pure judgements of what its registry knows.

*Healthy* is what a restart can mend: a shard that hangs. A service that is away is not: the worker waits, says so, and
a restart would only replay. *Ready* is that every shard of this host is being read.
"""

from __future__ import annotations

import msgspec

from streamproc.registry import HostView

#: Reads of a shard are a second apart, and a batch takes seconds: after so long without any sign it hangs.
STALL_SECONDS = 120.0


class Verdict(msgspec.Struct, frozen=True):
    """``reason`` is a sentence for a person."""

    ok: bool
    reason: str


def health(host: HostView, *, draining: bool, stall_seconds: float = STALL_SECONDS) -> Verdict:
    """Whether the shards move. A shard is judged from its first read on; a draining host is not judged any more."""
    if draining:
        return Verdict(True, "draining: the last batches are finished and checkpointed")
    for shard_id, shard in host.shards.items():
        if shard.read_seconds_ago is None or shard.quiet_seconds <= stall_seconds:
            continue
        return Verdict(False, f"nothing was heard of {shard_id} for {shard.quiet_seconds:.0f} s")
    return Verdict(True, f"all shards move: {len(host.shards)}" if host.shards else "no shard is held")


def readiness(host: HostView, *, draining: bool) -> Verdict:
    """Whether all shards that this host holds are read; without any, whether the runner has looked for some."""
    if draining:
        return Verdict(False, "draining: the last batches are finished and checkpointed")
    if not host.shards:
        if host.started:
            return Verdict(True, "nothing to do: no lease is held")
        return Verdict(False, "starting: no lease is held yet")
    waiting = [shard_id for shard_id, shard in host.shards.items() if shard.read_seconds_ago is None]
    if waiting:
        return Verdict(False, f"starting: {', '.join(waiting)} not read yet")
    return Verdict(True, f"all shards are read: {len(host.shards)}")
