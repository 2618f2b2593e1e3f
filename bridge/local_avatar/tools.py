"""The tools that a client has registered: which one a text names, and the arguments that stand in the text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Tool = Mapping[str, Any]

# The vendor's model takes as many (OpenAI, "Function calling": 128).
MAX_TOOLS = 128
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def register_tools(tools: Sequence[Tool]) -> dict[str, Tool]:
    """By name, those that have one; a tool may also be wrapped as OpenAI's older interface does."""
    functions = [tool["function"] if isinstance(tool.get("function"), dict) else tool for tool in tools[:MAX_TOOLS]]
    return {function["name"]: function for function in functions if isinstance(function.get("name"), str)}


def name_tool(text: str, tools: Mapping[str, Tool]) -> str | None:
    """The first tool whose name stands in the text as words: get_weather is also said `get weather`."""
    for name in tools:
        if re.search(rf"(?<!\w){_spoken(name)}(?!\w)", text, re.IGNORECASE):
            return name
    return None


def fill_arguments(tool: Tool, text: str) -> dict[str, Any]:
    """A value from the text for each required property, or an empty one of its type."""
    parameters = tool.get("parameters")
    schema = parameters if isinstance(parameters, dict) else {}
    required, properties = schema.get("required"), schema.get("properties")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    kinds = properties if isinstance(properties, dict) else {}
    return {name: _find(name, kinds.get(name), text) for name in names}


def _find(name: str, schema: Any, text: str) -> Any:
    """The word after the property's name, one of its choices, a number, what is quoted or stands after `in`."""
    kind, choices = (schema.get("type"), schema.get("enum")) if isinstance(schema, dict) else (None, None)
    named = re.search(rf"(?<!\w){_spoken(name)}(?!\w)(?:\s+is)?[\s:=]*[\"']?([\w.-]*\w)", text, re.IGNORECASE)
    if kind in ("number", "integer"):
        number = _NUMBER.search(text, named.start(1) if named else 0) or _NUMBER.search(text)
        return 0 if number is None else int(float(number[0])) if kind == "integer" else float(number[0])
    if kind == "boolean":
        return named is not None and named[1].lower() not in ("no", "not", "false", "off")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, str) and re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text, re.IGNORECASE):
            return choice
    found = named or re.search(r"[\"“]([^\"”]+)[\"”]", text) or re.search(r"\bin\s+(\w[\w-]*)", text, re.IGNORECASE)
    return found[1] if found else ""


def _spoken(name: str) -> str:
    """A pattern for a name written together, with underscores or as separate words."""
    return r"[\W_]*".join(map(re.escape, re.findall(r"[^\W_]+", name))) or re.escape(name)
