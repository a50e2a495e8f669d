"""The commit protocol under faults, played out in one thread from one seed, and judged by an oracle.

``run(seed)`` plays one schedule and returns its :class:`Outcome`; the same seed plays the same schedule. Nothing sleeps
and no socket is opened; :class:`streamproc.worker.ShardWorker` is the product's own. Without another application
(:class:`Played`) a list of letters a key is folded. ``python -m streamproc.testing.simulation`` plays many and counts.

Played: one to three shards with a reshard, poison and duplicates in the log; workers that die, go on as zombies, read
again, and act between another one's call and its effect; every fault in :data:`KINDS`.

Judged at each effect: every stored and projected state, and every state that an output was made of, is one fold of
its key's log up to its position, less the dead letters that are durable by then; stored positions and checkpoints
never go back; what lies below a checkpoint is stored and covered by an output, or dead-lettered. Judged at the end:
each event is folded once or dead-lettered, and the projection has every key that changed after it came back.

Not played, since the guarantee does not reach there:

* a fold that fails in a zombie and succeeds in its successor: it does not depend on its arguments alone, and the zombie
  may dead-letter what the successor folds
* two deaths inside the application's code: the second one may blame a record that did nothing
* a duplicate that comes after its event left the window
* of the projection, keys that waited when their worker ended, by a death, a lost lease or its shard's end: they are
  projected with their next event
* the values across keys of a processor with a shared fold
"""

from streamproc.testing.simulation.application import Given, Played
from streamproc.testing.simulation.faults import KINDS
from streamproc.testing.simulation.mutations import MUTATIONS, mutated
from streamproc.testing.simulation.oracle import Violation
from streamproc.testing.simulation.schedule import Outcome, run

__all__ = ["KINDS", "MUTATIONS", "Given", "Outcome", "Played", "Violation", "mutated", "run"]
