"""Reads a configuration file: YAML with line numbers, `${NAME}` from the environment, every error at once."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from bridge.config import Config
from bridge.config_avatars import SERVICE_TAG
from bridge.config_secrets import Substituted
from bridge.errors import ConfigError
from bridge.redact import mask, remember

KeyPath = tuple[str | int, ...]

# Far more than any real file; a bound on what a mistyped path can make us parse.
_MOST_FILE_BYTES = 1 << 20
# $$, ${NAME}, or ${ without a proper end. A lone $ stands for itself.
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


def load_config(path: str | Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check a file. Raises ConfigError, whose message has one line per mistake: FILE:LINE: KEY: what."""
    reader = _Reader(str(path), environ)
    tree = reader.read()
    if not reader.mistakes:
        try:
            return Config.model_validate(tree)
        except ValidationError as error:
            for details in error.errors(include_url=False, include_input=True):
                reader.add_invalid(details)
    raise ConfigError(mask("\n".join(reader.mistakes[key] for key in sorted(reader.mistakes))))


def show_config(config: Config) -> str:
    """The effective configuration as YAML: defaults filled in, secrets masked. Keys that are not set are left out."""
    tree = config.model_dump(mode="json", exclude_none=True)
    return mask(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def explain(error: ValidationError) -> str:
    """Every mistake of a model that was not read from a file, in one line."""
    return "; ".join(message for _, message in explain_each(error))


def explain_each(error: ValidationError, root: type[BaseModel] | None = None) -> list[tuple[KeyPath, str]]:
    """Every mistake, with the key it is at. `root`: the model that was read, to name the keys that it has."""
    return [(details["loc"], _explain(details, details["loc"], root)) for details in error.errors(include_url=False)]


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "avatar-bridge configuration"}


class _Reader:
    """Turns a YAML file into plain values, and remembers on which line each key stands."""

    def __init__(self, file_name: str, environ: Mapping[str, str]) -> None:
        self._file_name = file_name
        self._environ = environ
        self._lines: dict[KeyPath, int] = {(): 1}
        self._open_nodes: set[int] = set()
        # Keyed by line and order, so that they are listed in the order of the file.
        self.mistakes: dict[tuple[int, int], str] = {}

    def read(self) -> Any:
        try:
            with open(self._file_name, "rb") as file:
                content = file.read(_MOST_FILE_BYTES + 1)
            if len(content) > _MOST_FILE_BYTES:
                raise ConfigError(f"{self._file_name}: larger than 1 MiB, so no configuration")
            loader = yaml.SafeLoader(content.decode("utf-8-sig"))
            node = loader.get_single_node()
            return {} if node is None else self._value(loader, node, ())
        except OSError as error:
            raise ConfigError(f"{self._file_name}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._file_name}: not UTF-8 text, at byte {error.start}") from None
        except RecursionError:
            raise ConfigError(f"{self._file_name}: nested too deeply") from None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{self._file_name}:{line}: not YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self._file_name}: not YAML: {str(error).splitlines()[0]}") from None

    def add(self, path: KeyPath, message: str, line: int | None = None) -> None:
        if line is None:
            known = path
            while known not in self._lines:
                known = known[:-1]
            line = self._lines[known]
        key = ".".join(map(str, path))
        text = f"{self._file_name}:{line}: {key}: {message}" if key else f"{self._file_name}:{line}: {message}"
        self.mistakes[line, len(self.mistakes)] = text

    def add_invalid(self, details: ErrorDetails) -> None:
        # A mapping's key is reported at (…, key, "[key]"), and an avatar's keys behind a tag that tells its service.
        path = tuple(part for part in details["loc"] if part != "[key]")
        place = tuple(part for part in path if not str(part).startswith(SERVICE_TAG))
        if details["type"] == "union_tag_invalid":
            place = (*place, "service")
        self.add(place, _explain(details, path, Config))

    def _value(self, loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath) -> Any:
        if id(node) in self._open_nodes:
            self.add(path, "an alias refers to what holds it", node.start_mark.line + 1)
            return None
        self._open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(loader, node, path)
            if isinstance(node, yaml.SequenceNode):
                for index, item in enumerate(node.value):
                    self._lines[*path, index] = item.start_mark.line + 1
                return [self._value(loader, item, (*path, index)) for index, item in enumerate(node.value)]
            value = self._scalar(loader, node, path)
            return self._substitute(value, path) if isinstance(value, str) else value
        finally:
            self._open_nodes.discard(id(node))

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        own_lines: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = str(getattr(key_node, "value", "")), key_node.start_mark.line + 1
            if key in own_lines:
                self.add((*path, key), f"duplicate key, first on line {own_lines[key]}", line)
            own_lines.setdefault(key, line)
        loader.flatten_mapping(node)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.add(path, "a key must be text", line)
                continue
            # Keys are the text that stands there: `on` is no boolean and `1` no number in this place.
            key = key_node.value
            self._lines[*path, key] = line
            mapping[key] = self._value(loader, value_node, (*path, key))
        return mapping

    def _scalar(self, loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath) -> Any:
        try:
            return loader.construct_object(node)
        except ValueError as error:
            # What looks like a date and is none, such as 2026-13-01.
            self.add(path, str(error), node.start_mark.line + 1)
            return None

    def _substitute(self, text: str, path: KeyPath) -> str:
        was_substituted = False

        def replace(match: re.Match[str]) -> str:
            nonlocal was_substituted
            if match[0] == "$$":
                return "$"
            if match[1] is None:
                self.add(path, "a ${ without a name and a } behind it; write $${ for the characters themselves")
                return ""
            value = self._environ.get(match[1])
            if value is None:
                self.add(path, f"environment variable {match[1]} is not set")
                return ""
            was_substituted = True
            remember(value)
            return value

        replaced = _VARIABLE.sub(replace, text)
        return Substituted(replaced) if was_substituted else replaced


# ---------------------------------------------------------------------------------------------- error messages


def _explain(details: ErrorDetails, path: KeyPath, root: type[BaseModel] | None) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            if root is None:
                return "unknown key"
            keys = _keys_at(path[:-1], root)
            near = difflib.get_close_matches(str(path[-1]), keys, n=1)
            return "unknown key; " + (f"did you mean `{near[0]}`?" if near else f"there is {', '.join(keys)}")
        case "missing":
            return "is missing"
        case "literal_error":
            return _choose(details["input"], str(context["expected"]))
        case "union_tag_invalid":
            given, tags = str(context["tag"]), str(context["expected_tags"])
            return _choose(given.removeprefix(SERVICE_TAG), tags.replace(SERVICE_TAG, ""))
        case "string_pattern_mismatch" if path and details["loc"][-1] == "[key]":
            return "a name has 1 to 63 characters of a-z, 0-9 and -, and neither begins nor ends with -"
        case "model_type" | "dict_type":
            return "must be a mapping of keys"
        case "too_short":
            return "must not be empty"
        case "value_error":
            return str(context["error"])
    message = details["msg"].removeprefix("Input ")
    return message[0].lower() + message[1:]


def _choose(given: Any, quoted: str) -> str:
    """`quoted`: the choices, as pydantic lists them."""
    choices = re.findall(r"'([^']*)'", quoted)
    near = difflib.get_close_matches(given, choices, n=1) if isinstance(given, str) else []
    return f"must be one of {', '.join(choices)}" + (f"; did you mean `{near[0]}`?" if near else "")


def _keys_at(path: KeyPath, root: type[BaseModel]) -> list[str]:
    """The keys that the mapping at `path` may have."""
    models: list[type[BaseModel]] = [root]
    annotation: Any = root
    for part in path:
        if str(part).startswith(SERVICE_TAG):
            choices = get_args(annotation)
            annotation = next((choice for choice in choices if Tag(str(part)) in get_args(choice)), annotation)
            continue
        model = next(_models_in(annotation), None)
        # A mapping of names to models, or a list of them: the name is not a field, its models are what counts.
        if model and get_origin(_bare(annotation)) not in (dict, tuple) and part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
        elif model:
            annotation = model
    models = list(_models_in(annotation))
    return list(models[0].model_fields) if models else []


def _bare(annotation: Any) -> Any:
    """The annotation without Optional and Annotated."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        annotation = get_args(annotation)[0]
    return annotation


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
