"""Public fakes for tests of applications."""
