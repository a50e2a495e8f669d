"""Values and records as text for a person at a terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import msgspec

# Bytes shown of what is not text.
_BYTES_SHOWN = 16


def plain(text: str) -> str:
    """Text whose control characters are written out: what a producer sent must not steer the operator's terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def readable(value: object) -> str:
    """An application's value for a person: JSON where msgspec can make it, bytes as their count and their beginning."""
    try:
        built = msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview), str_keys=True, enc_hook=repr)
        return plain(json.dumps(_abbreviated(built), ensure_ascii=False))
    except (TypeError, ValueError):
        return plain(repr(value))


def _abbreviated(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes_text(bytes(value))
    if isinstance(value, dict):
        return {key: _abbreviated(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_abbreviated(each) for each in value]
    return value


def bytes_text(data: bytes) -> str:
    """``<48 bytes: 0a 00 ...>``."""
    if not data:
        return "<0 bytes>"
    return f"<{len(data)} bytes: {data[:_BYTES_SHOWN].hex(' ')}{' ...' if len(data) > _BYTES_SHOWN else ''}>"


def state_fields(state: object) -> dict[str, str]:
    """The fields of an application's state, readable; one without fields is a single one."""
    fields: Mapping[Any, object]
    if isinstance(state, msgspec.Struct):
        fields = msgspec.structs.asdict(state)
    elif dataclasses.is_dataclass(state):
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    else:
        fields = state if isinstance(state, Mapping) else {"value": state}
    return {plain(str(name)): readable(value) for name, value in fields.items()}


def data_text(data: bytes) -> str:
    """A record's data for a terminal: text as it is but for control characters; else the beginning of the bytes."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        return f"{bytes_text(data)} (not text; --data PATH writes them to a file)"
    return "\n".join(plain(line) for line in lines)
