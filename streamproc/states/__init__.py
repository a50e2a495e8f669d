"""State stores: the adapters of streamproc.state."""
