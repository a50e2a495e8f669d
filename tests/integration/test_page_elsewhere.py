"""The shop as static files on a web server of its own, in a browser, against an API that lists who may call."""

from __future__ import annotations


