"""A page that shows the OpenAPI document: HTML made here, no script, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --accent: #0a6ebd; }
@media (prefers-color-scheme: dark) { :root { --accent: #6cb8ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin-bottom: 0; } h2 { margin: 0; font-size: 1.05rem; } h3 { font-size: .95rem; margin: 1rem 0 .25rem; }
section { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem 1.25rem; margin: 1rem 0; }
code, pre { font: .9em/1.45 ui-monospace, monospace; } pre { overflow-x: auto; padding: .75rem; margin: .5rem 0;
  border: 1px solid var(--line); border-radius: .35rem; }
table { border-collapse: collapse; width: 100%; font-size: .95em; } td, th { text-align: left; vertical-align: top;
  padding: .3rem .6rem .3rem 0; border-top: 1px solid var(--line); } .verb { color: var(--accent); }
a { color: var(--accent); } .scroll { overflow-x: auto; }
"""
#: Stands in place of the common policy: this page has a style of its own.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class DocsPage(OpenAPIRenderPlugin):
    """Renders the document on the server."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        del request
        info = openapi_schema["info"]
        operations = [
            _operation(path, verb, operation, openapi_schema)
            for path, verbs in sorted(openapi_schema["paths"].items())
            for verb, operation in verbs.items()
            if isinstance(operation, dict)
        ]
        title = f"{escape(info['title'])} {escape(info['version'])}"
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
            f"<main><h1>{title}</h1><p>{escape(info.get('description', ''))}</p>"
            '<p>As a document for tools: <a href="/docs/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>'
            f"{''.join(operations)}</main></body></html>"
        ).encode()


def _operation(path: str, verb: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    parts = [
        f'<section><h2><code><span class="verb">{verb.upper()}</span> {escape(path)}</code></h2>',
        f"<p><strong>{escape(operation.get('summary', ''))}.</strong> {escape(operation.get('description', ''))}</p>",
    ]
    rows = [
        (
            f"<code>{escape(each['name'])}</code>",
            f"{each['in']}{', required' if each.get('required') else ''}",
            f"<code>{escape(_kind(each.get('schema', {}), document))}</code>",
            escape(each.get("description", "")),
        )
        for each in operation.get("parameters", [])
    ]
    parts.append(_table("Parameters", rows))
    body = operation.get("requestBody", {}).get("content", {})
    parts += [
        f"<h3>Body</h3><pre>{escape(json.dumps(_outline(content['schema'], document), indent=2))}</pre>"
        for content in body.values()
    ]
    for status, response in operation.get("responses", {}).items():
        for content in response.get("content", {}).values():
            if status.startswith("2"):
                outline = json.dumps(_outline(content.get("schema", {}), document), indent=2)
                parts.append(f"<h3>{status}</h3><pre>{escape(outline)}</pre>")
    refusals = [
        (f"<code>{status}</code>", escape(response["description"]))
        for status, response in operation.get("responses", {}).items()
        if not status.startswith("2")
    ]
    return "".join([*parts, _table("Refusals", refusals), "</section>"])


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<h3>{title}</h3><div class="scroll"><table>{lines}</table></div>'


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _outline(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """A value that says of each field what it is."""
    schema = _resolved(schema, document)
    for several in ("oneOf", "anyOf"):
        for one in schema.get(several, []):
            if _resolved(one, document).get("type") not in ("null", None):
                return _outline(one, document)
    if schema.get("type") == "object":
        return {name: _outline(each, document) for name, each in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [_outline(schema.get("items", {}), document)]
    return _kind(schema, document)


def _kind(schema: dict[str, Any], document: dict[str, Any]) -> str:
    schema = _resolved(schema, document)
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return " | ".join(_kind(one, document) for one in schema[several])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("type", "any")
    name = " | ".join(kind) if isinstance(kind, list) else str(kind)
    if "minimum" in schema and "maximum" in schema:
        name += f" {schema['minimum']} to {schema['maximum']}"
    if "default" in schema and schema["default"] is not None:
        name += f" = {schema['default']}"
    return name
