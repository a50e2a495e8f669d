"""Dead letters: the adapters of streamproc.deadletter."""
