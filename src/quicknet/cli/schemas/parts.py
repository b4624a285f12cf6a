"""The kinds of value that the schemas are made of."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def text(description: str, *values: str) -> Schema:
    """Any text, or one of `values`."""
    return {"type": "string", **({"enum": list(values)} if values else {}), "description": description}


def integer(description: str) -> Schema:
    """A whole number."""
    return {"type": "integer", "description": description}


def number(description: str) -> Schema:
    """A number."""
    return {"type": "number", "description": description}


def flag(description: str) -> Schema:
    """True or false."""
    return {"type": "boolean", "description": description}


def listing(description: str, items: Schema) -> Schema:
    """Any number of `items`."""
    return {"type": "array", "items": items, "description": description}


def mapping(description: str, values: Schema) -> Schema:
    """`values` by name."""
    return {"type": "object", "additionalProperties": values, "description": description}


def any_object(description: str) -> Schema:
    """An object with any fields."""
    return {"type": "object", "description": description}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def record(description: str, **fields: Schema) -> Schema:
    """An object that has all `fields`."""
    return partial(description, (), **fields)


def partial(description: str, absent: tuple[str, ...], **fields: Schema) -> Schema:
    """An object that has all `fields`, but perhaps not those in `absent`."""
    required = [name for name in fields if name not in absent]
    return {"type": "object", "properties": fields, "required": required, "description": description}


def verb(name: str, *variants: Schema) -> Schema:
    """The schema of a verb, whose output is one of `variants`."""
    head = {"$schema": _DIALECT, "title": f"quicknet {name} --json"}
    return {**head, **variants[0]} if len(variants) == 1 else {**head, "anyOf": list(variants)}


FORMAT = {"const": 1, "type": "integer", "description": "The version of this schema."}
BALANCED = {
    "balanced_accuracy": number("Mean over the classes of the share of each that was right, 0..1."),
    "majority_share": number("Accuracy of always answering with the largest class, 0..1."),
}
ENERGY = or_null(number("Energy of the processors in joules; null where the machine does not report it."))
