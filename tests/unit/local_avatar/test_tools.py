"""Which tool a text names, and what of the text becomes its arguments."""

from typing import Any

import pytest

from bridge.local_avatar.tools import MAX_TOOLS, fill_arguments, name_tool, register_tools


def tool(name: Any, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "name": name, "parameters": schema}


def test_tools_are_registered_by_name_also_when_they_are_wrapped() -> None:
    wrapped = {"type": "function", "function": {"name": "b"}}
    assert list(register_tools([tool("a"), wrapped, tool(7), {}])) == ["a", "b"]


def test_tools_beyond_the_bound_are_left_out() -> None:
    assert len(register_tools([tool(f"tool{n}") for n in range(MAX_TOOLS + 5)])) == MAX_TOOLS


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Please call get_weather now", "get_weather"),
        ("get weather", "get_weather"),
        ("GET-WEATHER!", "get_weather"),
        ("What is the time?", "time"),
        ("sometimes", None),
        ("get_weathers", None),
        ("", None),
    ],
)
def test_a_tool_is_named_as_whole_words(text: str, name: str | None) -> None:
    assert name_tool(text, register_tools([tool("get_weather"), tool("time")])) == name


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "the city is Berlin", "Berlin"),
        ({"type": "string"}, "city: São-Paulo.", "São-Paulo"),
        ({"type": "string"}, 'weather for "New York" please', "New York"),
        ({"type": "string"}, "weather in Oslo today", "Oslo"),
        ({"type": "string"}, "weather", ""),
        ({"type": "string", "enum": ["Rome", "Paris"]}, "what of paris?", "Paris"),
        ({"type": "integer"}, "3 days, city 42", 42),
        ({"type": "integer"}, "in 3.7 days", 3),
        ({"type": "number"}, "about -2.5 of them", -2.5),
        ({"type": "number"}, "none", 0),
        ({"type": "boolean"}, "with city on", True),
        ({"type": "boolean"}, "with city off", False),
        ("nonsense", "city Berlin", "Berlin"),
    ],
)
def test_an_argument_is_found_in_the_text_or_empty(schema: Any, text: str, value: Any) -> None:
    assert fill_arguments(tool("weather", city=schema), text) == {"city": value}


@pytest.mark.parametrize("parameters", [None, [], {}, {"required": "city"}, {"required": [7]}, {"properties": 1}])
def test_a_schema_that_is_none_needs_no_arguments(parameters: Any) -> None:
    assert fill_arguments({"name": "weather", "parameters": parameters}, "city Berlin") == {}
