"""The API's documentation, from its OpenAPI description. FastAPI's own page takes its script from another host."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from queryopt.runtime.markup import Markup, element
from queryopt.runtime.serve.pages.shell import link, page

__all__ = ["reference_page"]

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


def reference_page(description: Mapping[str, Any], url: str, uploads: bool) -> str:
    """A page on every operation. description: the OpenAPI document. url: of this server, for the examples."""
    operations = [
        _operation(method, path, operation, description, url)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = description.get("components", {}).get("schemas", {})
    answers = [
        element("section", element("h3", name, id=f"schema-{name}"), _text(schema), _fields(schema, schemas))
        for name, schema in schemas.items()
        if "properties" in schema
    ]
    return page(
        "API",
        element("h1", "API"),
        *(element("p", part, class_="lead") for part in description["info"]["description"].split("\n\n")),
        element("p", "As OpenAPI, for programs that make clients: ", link("/openapi.json", "/openapi.json")),
        *operations,
        element("h2", "What is sent and answered"),
        *answers,
        here="/docs",
        uploads=uploads,
    )


def _operation(method: str, path: str, operation: Mapping[str, Any], whole: Mapping[str, Any], url: str) -> Markup:
    example = _EXAMPLES.get((method, path))
    schemas = whole.get("components", {}).get("schemas", {})
    return element(
        "section",
        element("h2", element("span", method.upper(), class_="method"), " ", element("code", path)),
        element("p", f"{operation.get('summary', '')}."),
        _code(example.format(url=url)) if example else None,
        _parameters(operation.get("parameters", [])),
        *_bodies(operation.get("requestBody", {}).get("content", {}), schemas),
        element("dl", *_answers(operation.get("responses", {})), class_="answers"),
        class_="operation",
    )


def _parameters(parameters: list[Mapping[str, Any]]) -> Markup | None:
    if not parameters:
        return None
    rows = [
        _row(
            p["name"],
            _kind(p["schema"]),
            "required" if p.get("required") else _default(p["schema"]),
            p.get("description"),
        )
        for p in parameters
    ]
    return _table("Parameters", rows)


def _bodies(content: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[Markup]:
    known: set[str] = set()
    for kind, body in content.items():
        fields = body["schema"]["properties"]
        also = " and the fields above, as text" if known & set(fields) else ""
        yield element("p", "Body: ", element("code", kind), also)
        yield _fields({**body["schema"], "properties": {k: v for k, v in fields.items() if k not in known}}, schemas)
        known |= set(fields)


def _code(text: str) -> Markup:
    # As lines of their own: line breaks in text are shown as escapes.
    lines = Markup("<br>").join(element("span", line) for line in text.split("\n"))
    return element("pre", element("code", Markup(lines)), tabindex=0)


def _answers(responses: Mapping[str, Any]) -> Iterator[Markup]:
    for status, response in responses.items():
        kinds = response.get("content", {})
        schema = kinds.get("application/json", {}).get("schema", {})
        name = _named(schema) or _named(schema.get("items", {}))
        made = element("a", f" {name}", href=f"#schema-{name}") if name else None
        yield element("div", element("dt", status), element("dd", response.get("description", ""), made))


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Markup:
    needed = schema.get("required", [])
    rows = [
        _row(name, _kind(field), _default(field) or ("always" if name in needed else ""), field.get("description"))
        for name, field in schema.get("properties", {}).items()
    ]
    return _table("Fields", rows)


def _table(label: str, rows: list[Markup]) -> Markup:
    return element(
        "div", element("table", *rows, aria_label=label), class_="wide", tabindex=0, role="region", aria_label=label
    )


def _row(name: str, kind: str, default: str, description: str | None) -> Markup:
    return element(
        "tr",
        element("th", element("code", name), scope="row"),
        element("td", kind),
        element("td", default),
        element("td", description or ""),
    )


def _text(schema: Mapping[str, Any]) -> Markup | None:
    return element("p", schema["description"]) if schema.get("description") else None


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
