"""The files under config/ tell the truth: every key, its real default, and a schema that is current."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge.config import Config
from bridge.config_file import json_schema, load_config

FOLDER = Path(__file__).parent.parent / "config"
SAMPLE = FOLDER / "bridge.example.yaml"

# Keys that a reader must fill in, so that the sample cannot show their default.
FILLED_IN = {"license_file", "name", "url", "stream_key_file", "token_file", "sessions", "inputs", "outputs", "avatar"}


@pytest.fixture
def sample(tmp_path: Path) -> Config:
    """The sample, its secrets taken from files that exist."""
    (tmp_path / "secret").write_text("a-secret-value\n")
    path = tmp_path / SAMPLE.name
    path.write_text(re.sub(r"/run/secrets/\w+", str(tmp_path / "secret"), SAMPLE.read_text()))
    return load_config(path, {})


def models_in(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from models_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from models_in(item)


def fields_of(schema: Mapping[str, Any]) -> Iterator[str]:
    for model in (schema, *schema["$defs"].values()):
        yield from model.get("properties", {})


def test_every_key_of_the_schema_is_in_the_sample() -> None:
    text = SAMPLE.read_text()
    missing = [key for key in fields_of(json_schema()) if not re.search(rf"\b{key}\b", text)]
    # The ways to give a secret are explained once, for all of them.
    assert [key for key in missing if not re.search(r"_(file|env|credential)$", key)] == []


def test_every_key_of_the_sample_shows_its_default(sample: Config) -> None:
    def default_of(field: FieldInfo) -> Any:
        return field.get_default(call_default_factory=True)

    shown = {
        f"{type(model).__name__}.{name}": (getattr(model, name), default_of(field))
        for model in models_in(sample)
        for name, field in type(model).model_fields.items()
        if name in model.model_fields_set and name not in FILLED_IN and not isinstance(getattr(model, name), BaseModel)
    }
    assert shown and {key: value for key, value in shown.items() if value[0] != value[1]} == {}


def test_every_key_of_the_sample_has_a_comment_that_names_its_default() -> None:
    comment = ""
    for line in SAMPLE.read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment = text if not comment or comment.endswith("\0") else f"{comment} {text}"
        elif match := re.match(r"(\w+):\s+(.+)", text):
            if match[1] not in FILLED_IN and not match[2].startswith("#"):
                assert "efault" in comment, f"{match[1]}: {comment!r}"
            comment = comment.removesuffix("\0") + "\0"
        else:
            comment = ""


def test_the_kept_schema_is_the_current_one() -> None:
    kept = json.loads((FOLDER / "schema.json").read_text())
    assert kept == json_schema(), "config/schema.json is old: avatar-bridge schema > config/schema.json"


@pytest.mark.parametrize("name", ["bridge.example.yaml", "local.yaml"])
def test_the_schema_accepts_what_the_loader_accepts(name: str) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load((FOLDER / name).read_text()))


def test_the_local_example_loads_from_the_root_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent)
    config = load_config("config/local.yaml", {})
    source = config.sessions["leo"].inputs["question"].url.reveal().removeprefix("file:")
    assert (FOLDER.parent / config.storage.dir.name / ".." / source.removeprefix("../")).resolve().exists()
