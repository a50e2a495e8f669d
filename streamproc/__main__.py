"""`python -m streamproc` and the `streamproc` script."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
