"""What becomes of a worker whose daemon died: another try, or the end. Pure decisions.

Any death of a child ends the daemon with all its shards, so a try follows after a wait, from the checkpoints. A
*fruitless* death is one without a checkpoint since the start before it. A child's own error says with its exit code
whether another try could help: a setting that cannot be used stays so.
"""

from __future__ import annotations

import msgspec

from streamproc.errors import (
    AccessDenied,
    MissingExtra,
    NewerState,
    SettingsError,
    StreamNotFound,
    StreamRecreated,
)

#: Errors that another start meets again.
PERMANENT_CODES = frozenset(
    error.exit_code
    for error in (SettingsError, StreamNotFound, AccessDenied, StreamRecreated, NewerState, MissingExtra)
) | {11}  # the model bundle cannot be used
#: So many deaths with one permanent code are no accident: a permission may come late, a table be in creation.
PERMANENT_DEATHS_MAX = 3
WAIT_SECONDS_MIN = 1.0
WAIT_SECONDS_MAX = 30.0


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How one daemon ended, though nobody had asked it to."""

    #: The first child's error, else what the daemon said last.
    reason: str
    #: Of that child; None where no child told of an error.
    child_exit_code: int | None
    daemon_exit_code: int
    #: Whether any shard made a checkpoint since the daemon was started.
    checkpointed: bool


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Try again after a wait."""

    wait_seconds: float


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """End the worker, with this exit code and sentence."""

    exit_code: int
    sentence: str


def after_deaths(deaths: list[Death], deaths_max: int) -> Restart | GiveUp:
    """The decision after the last of these deaths, all of one worker, in their order."""
    fruitless: list[Death] = []
    for death in deaths:
        fruitless = [] if death.checkpointed else [*fruitless, death]
    if not fruitless:
        return Restart(wait_seconds=WAIT_SECONDS_MIN)
    last = fruitless[-1]
    code = last.child_exit_code
    if code is not None and code in PERMANENT_CODES:
        same = [death for death in fruitless[-PERMANENT_DEATHS_MAX:] if death.child_exit_code == code]
        if len(same) == PERMANENT_DEATHS_MAX:
            return GiveUp(exit_code=code, sentence=last.reason)
    if len(fruitless) >= deaths_max:
        return GiveUp(
            exit_code=code or 1,
            sentence=f"the daemon died {len(fruitless)} times without a checkpoint between: {last.reason}",
        )
    return Restart(wait_seconds=min(WAIT_SECONDS_MAX, WAIT_SECONDS_MIN * 2.0 ** (len(fruitless) - 1)))
