"""The errors of this distribution, each with what to do about it."""

from __future__ import annotations

from streamproc.errors import StreamprocError


class BundleInvalid(StreamprocError):
    """A bundle cannot be used: a file is missing, was changed, or fits another version of this code.

    The message names the file. Copy the bundle again, or train a new one with this version.
    """

    exit_code = 11


class TrainingDataUnusable(StreamprocError):
    """The events cannot be trained on. The message says what is missing: give a longer log, or another cut."""

    exit_code = 12
