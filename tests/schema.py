"""Whether what a command prints follows its own --json-schema."""

from typing import Any

from quicknet.cli.schemas import SCHEMAS

KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def follows(verb: str, printed: Any) -> None:
    """Check one JSON object of a verb; a field that the schema lacks is a fault too."""
    variants = [v for v in SCHEMAS[verb].get("anyOf", [SCHEMAS[verb]]) if set(v["required"]) <= set(printed)]
    assert variants, f"{verb}: fields are missing in {sorted(printed)}"
    chosen = variants[0] if len(variants) == 1 else next(v for v in variants if set(printed) <= set(v["properties"]))
    _check(printed, chosen, verb)


def _check(value: Any, schema: dict, where: str) -> None:
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if value is None:
        assert "null" in types, where
        return
    assert any(isinstance(value, KINDS[kind]) for kind in types if kind != "null"), f"{where}: {value!r}"
    if "properties" in schema:
        assert set(schema["required"]) <= set(value) <= set(schema["properties"]), where
        for key, inner in value.items():
            _check(inner, schema["properties"][key], f"{where}.{key}")
    if isinstance(value, list):
        for inner in value:
            _check(inner, schema["items"], f"{where}[]")
    if "additionalProperties" in schema:
        for key, inner in value.items():
            _check(inner, schema["additionalProperties"], f"{where}.{key}")
    assert value in schema.get("enum", [value]), where
    assert value == schema.get("const", value), where
