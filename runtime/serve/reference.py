"""What the API's page says, from the OpenAPI description. FastAPI's own page takes its script from another host."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["described_api"]

_EXAMPLES = {
    ("post", "/search"): (
        "curl -F file=@bird.jpg -F k=5 {url}search\n"
        'curl --json \'{{"code": "0x1f", "radius": 2, "k": 5}}\' {url}search\n'
        'curl --json \'{{"image": 12, "rank": "weighted"}}\' {url}search'
    ),
    ("get", "/image/{id}"): "curl -o 12.jpg '{url}image/12?size=256&view=model'",
    ("get", "/image/{id}/attention"): "curl '{url}image/12/attention?bit=3'",
    ("get", "/bits"): "curl '{url}bits?bit=3&count=10'",
    ("get", "/healthz"): "curl {url}healthz",
    ("get", "/metrics"): "curl {url}metrics",
}


def described_api(description: Mapping[str, Any], url: str) -> dict[str, Any]:
    """What reference.html.jinja shows. description: the OpenAPI document. url: of this server, for the examples."""
    schemas = description.get("components", {}).get("schemas", {})
    return {
        "about": description["info"]["description"].split("\n\n"),
        "operations": [
            _operation(method, path, operation, url)
            for path, methods in description["paths"].items()
            for method, operation in methods.items()
        ],
        "schemas": [
            {"name": name, "about": schema.get("description"), "fields": _fields(schema)}
            for name, schema in schemas.items()
            if "properties" in schema
        ],
    }


def _operation(method: str, path: str, operation: Mapping[str, Any], url: str) -> dict[str, Any]:
    parameters = operation.get("parameters", [])
    return {
        "method": method.upper(),
        "path": path,
        "summary": operation.get("summary", ""),
        "example": _EXAMPLES.get((method, path), "").format(url=url).splitlines(),
        "parameters": [
            _row(one["name"], one["schema"], "required" * one.get("required", False), one) for one in parameters
        ],
        "bodies": list(_bodies(operation.get("requestBody", {}).get("content", {}))),
        "answers": list(_answers(operation.get("responses", {}))),
    }


def _bodies(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    known: set[str] = set()
    for kind, body in content.items():
        fields = body["schema"]["properties"]
        new = {name: field for name, field in fields.items() if name not in known}
        yield {"kind": kind, "more": len(new) < len(fields), "fields": _fields({**body["schema"], "properties": new})}
        known |= set(fields)


def _answers(responses: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Status, description, the name of the schema if there is one."""
    for status, response in responses.items():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        yield status, response.get("description", ""), _named(schema) or _named(schema.get("items", {}))


def _fields(schema: Mapping[str, Any]) -> list[dict[str, str]]:
    needed = schema.get("required", [])
    return [
        _row(name, field, "" if _default(field) else "always" * (name in needed), field)
        for name, field in schema.get("properties", {}).items()
    ]


def _row(name: str, schema: Mapping[str, Any], needed: str, described: Mapping[str, Any]) -> dict[str, str]:
    about = described.get("description") or ""
    return {"name": name, "kind": _kind(schema), "needed": needed or _default(schema), "about": about}


def _named(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _kind(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if _named(schema):
        return _named(schema)
    kind = str(schema.get("format") or schema.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(schema['items'])}" if "items" in schema else "list"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or high is None:
        return kind if low is None else f"{kind} >= {int(low)}"
    return f"{kind}, {int(low):,} to {int(high):,}"


def _default(schema: Mapping[str, Any]) -> str:
    return f"default {json.dumps(schema['default'])}" if schema.get("default") is not None else ""
