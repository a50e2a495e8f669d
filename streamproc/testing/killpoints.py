"""Ends the process with SIGKILL at a chosen place of the commit protocol, for tests of real processes.

A *kill point* is a step and a number: the process ends at the n-th *passage* of the step, counted over all shards, with
nothing said, flushed or closed, as the kernel's out-of-memory killer ends one. A script of the test runs the
application with it::

    point = KillPoint.parse("after_store:2")
    runner = LocalRunner(point.around(app), leases=point.around_leases(DynamoDBLeases(app.name)))

and the test then starts the application again without one, and compares what is stored with one fold of the log.
Nothing of the library knows of it: methods of the ports and of the processor are replaced on the objects.
"""

from __future__ import annotations

import enum
import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from streamproc.application import Application
from streamproc.errors import SettingsError
from streamproc.lease import LeaseStore
from streamproc.processor import AnyProcessor, KeyedProcessor

T = TypeVar("T")


class Step(enum.StrEnum):
    """A place in the commit protocol, in its order; see :mod:`streamproc.worker`.

    Before an effect, the process knows of it and the service does not; after it, the other way round.
    """

    #: A batch is decoded, and its states are not asked for.
    DECODED = "decoded"
    #: The states of the keys that were not in memory are loaded.
    LOADED = "loaded"
    #: Inside the application's fold of one event.
    FOLDING = "folding"
    BEFORE_DEAD_LETTERS = "before_dead_letters"
    AFTER_DEAD_LETTERS = "after_dead_letters"
    #: Inside the application's emit.
    EMITTING = "emitting"
    BEFORE_PUBLISH = "before_publish"
    AFTER_PUBLISH = "after_publish"
    BEFORE_PROJECT = "before_project"
    AFTER_PROJECT = "after_project"
    BEFORE_STORE = "before_store"
    AFTER_STORE = "after_store"
    #: The states are durable, and the lease's checkpoint is not moved.
    BEFORE_CHECKPOINT = "before_checkpoint"
    AFTER_CHECKPOINT = "after_checkpoint"


#: The last passage that :meth:`KillPoint.seeded` draws. Folds are counted by event, all else by batch, by batch with a
#: dead letter, or by checkpoint; a first life over some thousand records in batches of fifty passes each so often.
_LAST_PASSAGE = dict.fromkeys(Step, 6) | {
    Step.FOLDING: 600,
    Step.LOADED: 3,
    Step.BEFORE_DEAD_LETTERS: 3,
    Step.AFTER_DEAD_LETTERS: 3,
    Step.BEFORE_STORE: 4,
    Step.AFTER_STORE: 4,
    Step.BEFORE_CHECKPOINT: 4,
    Step.AFTER_CHECKPOINT: 4,
}


class KillPoint(msgspec.Struct, frozen=True):
    """Where the process ends: at this passage (from 1) of this step."""

    step: Step
    passage: int

    @classmethod
    def seeded(cls, seed: int) -> KillPoint:
        """The kill point of a seed (from 0). As many seeds in a row as there are steps, from 0 on, cover every step."""
        turn, index = divmod(seed, len(Step))
        steps = random.Random(f"steps {turn}").sample(list(Step), len(Step))
        return cls(steps[index], random.Random(f"passage {seed}").randint(1, _LAST_PASSAGE[steps[index]]))

    @classmethod
    def parse(cls, text: str) -> KillPoint:
        """Read what ``str`` gives, as in ``after_store:2``. Raises SettingsError for anything else."""
        step, _, passage = text.partition(":")
        if step not in [*Step] or not passage.isdigit() or int(passage) < 1:
            raise SettingsError(
                f"the kill point {text!r} names no place to die at: write step:passage, with a step of"
                f" {', '.join(Step)} and a passage from 1 on"
            )
        return cls(Step(step), int(passage))

    def __str__(self) -> str:
        return f"{self.step}:{self.passage}"

    def around(self, application: Application) -> Application:
        """The application, armed: whoever runs it ends where this says, unless it is the lease's checkpoint.

        Its processor must be a KeyedProcessor, else running it raises SettingsError: the steps are those of one.
        """
        passing = _Passing(self)

        def states(port: Any) -> None:
            _wrap(port, "load", after=passing.of(Step.LOADED))
            _wrap(port, "store", passing.of(Step.BEFORE_STORE), passing.of(Step.AFTER_STORE))

        def deadletters(port: Any) -> None:
            _wrap(port, "write", passing.of(Step.BEFORE_DEAD_LETTERS), passing.of(Step.AFTER_DEAD_LETTERS))

        def sink(port: Any) -> None:
            _wrap(port, "publish", passing.of(Step.BEFORE_PUBLISH), passing.of(Step.AFTER_PUBLISH))

        def projection(port: Any) -> None:
            _wrap(port, "project", passing.of(Step.BEFORE_PROJECT), passing.of(Step.AFTER_PROJECT))

        def processor() -> AnyProcessor:
            made = application.processor()
            if not isinstance(made, KeyedProcessor):
                raise SettingsError(f"the processor is a {type(made).__name__}: kill points need a KeyedProcessor")
            decoded = _AfterAnother(passing.of(Step.DECODED))
            _wrap(made, "decode", after=decoded.note)
            _wrap(made, "key", before=decoded.follow)
            _wrap(made, "fold", before=passing.of(Step.FOLDING))
            _wrap(made, "emit", before=passing.of(Step.EMITTING))
            return made

        return msgspec.structs.replace(
            application,
            processor=processor,
            states=_made(application.states, states),
            deadletters=_made(application.deadletters, deadletters),
            sink=application.sink and _made(application.sink, sink),
            projection=application.projection and _made(application.projection, projection),
        )

    def around_leases(self, leases: LeaseStore) -> LeaseStore:
        """The lease store, armed. It is the same object."""
        passing = _Passing(self)
        _wrap(leases, "checkpoint", passing.of(Step.BEFORE_CHECKPOINT), passing.of(Step.AFTER_CHECKPOINT))
        return leases


class _Passing:
    """Counts the passages of one step, over all threads, and ends the process at the one that was chosen."""

    def __init__(self, point: KillPoint) -> None:
        self._point = point
        self._lock = threading.Lock()
        self._passages = 0

    def of(self, step: Step) -> Callable[[], None]:
        """What to call at a passage of this step."""
        return self._pass if step == self._point.step else _go_on

    def _pass(self) -> None:
        with self._lock:
            self._passages += 1
            if self._passages == self._point.passage:
                os.write(2, f"killed at {self._point}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)


class _AfterAnother:
    """Calls something at the first call of one method that follows calls of another: after the last of these."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._noted = False

    def note(self) -> None:
        self._noted = True

    def follow(self) -> None:
        if self._noted:
            self._noted = False
            self._call()


def _go_on() -> None:
    """A passage of a step that is not the chosen one."""


def _made(make: Callable[..., T], arm: Callable[[T], None]) -> Callable[..., T]:
    def made(*arguments: Any) -> T:
        port = make(*arguments)
        arm(port)
        return port

    return made


def _wrap(target: object, method: str, before: Callable[[], None] = _go_on, after: Callable[[], None] = _go_on) -> None:
    """Replace a method on this object by one that calls ``before`` and, if it returns, ``after``."""
    inner = getattr(target, method)

    def wrapped(*arguments: Any) -> Any:
        before()
        result = inner(*arguments)
        after()
        return result

    setattr(target, method, wrapped)
