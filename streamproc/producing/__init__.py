"""The parts of :class:`streamproc.producer.Producer`: what waits, how it is packed, how it is sent."""
