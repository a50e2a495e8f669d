"""The README's code runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from streamproc.application import Application
from streamproc.processor import Changed
from streamproc.record import Position
from streamproc_producers.events import CartEvent, EventType, encode, new_event_id, utc

README = Path(__file__).parents[3] / "README.md"


def test_the_processor_of_the_readme_is_an_application_that_folds_and_emits() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (source,) = (block for block in blocks if "class Spend" in block)
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102  # the page's own code
    application: Application = names["app"]
    processor: Any = application.processor()
    event = CartEvent(
        event_id=new_event_id(),
        event_type=EventType.PURCHASE,
        user_id="u",
        item_id="i",
        ts=utc(0),
        quantity=2,
        price=2.5,
    )
    decoded = processor.decode(encode(event))
    state = processor.fold(processor.decode_state(processor.encode_state(processor.new_state())), decoded)
    (output,) = processor.emit([Changed(processor.key(decoded), state, Position(0, 1), 0.0, 1)])
    assert processor.encode(output) == b'{"user":"u","spent":5.0}'
