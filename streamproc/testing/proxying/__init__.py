"""The parts of :mod:`streamproc.testing.proxy`."""
