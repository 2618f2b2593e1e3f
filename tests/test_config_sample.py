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
# The first one explains everything, each other one a further avatar service.
SAMPLES = (FOLDER / "bridge.example.yaml", *sorted(FOLDER.glob("bridge.*.example.yaml")))

# Keys that a reader must fill in, so that the sample cannot show their default.
FILLED_IN = {
    *("license_file", "name", "url", "stream_key_file", "token_file", "passphrase_file"),
    *("sessions", "inputs", "outputs", "avatar", "service", "video_url", "audio_url"),
    *("api_key", "api_secret_file", "room", "api_key_file", "avatar_id"),
}

each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


def load_sample(sample: Path, folder: Path) -> Config:
    """Read a sample, its secrets taken from files that exist."""
    (folder / "secret").write_text("a-secret-value\n")
    path = folder / sample.name
    path.write_text(re.sub(r"/run/secrets/\w+", str(folder / "secret"), sample.read_text()))
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


def test_every_key_of_the_schema_is_in_a_sample() -> None:
    text = "".join(sample.read_text() for sample in SAMPLES)
    missing = [key for key in fields_of(json_schema()) if not re.search(rf"\b{key}\b", text)]
    # The ways to give a secret are explained once, for all of them.
    assert [key for key in missing if not re.search(r"_(file|env|credential)$", key)] == []


@each_sample
def test_every_key_of_a_sample_shows_its_default(sample: Path, tmp_path: Path) -> None:
    def default_of(field: FieldInfo) -> Any:
        return field.get_default(call_default_factory=True)

    shown = {
        f"{type(model).__name__}.{name}": (getattr(model, name), default_of(field))
        for model in models_in(load_sample(sample, tmp_path))
        for name, field in type(model).model_fields.items()
        if name in model.model_fields_set and name not in FILLED_IN and not isinstance(getattr(model, name), BaseModel)
    }
    assert shown and {key: value for key, value in shown.items() if value[0] != value[1]} == {}


@each_sample
def test_every_key_of_a_sample_has_a_comment_that_names_its_default(sample: Path) -> None:
    comment = ""
    for line in sample.read_text().splitlines():
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


@pytest.mark.parametrize("path", [*SAMPLES, FOLDER / "local.yaml"], ids=lambda path: path.name)
def test_the_schema_accepts_what_the_loader_accepts(path: Path) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_the_local_example_loads_from_the_root_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent)
    config = load_config("config/local.yaml", {})
    source = config.sessions["leo"].inputs["question"].url.reveal().removeprefix("file:")
    assert (FOLDER.parent / config.storage.dir.name / ".." / source.removeprefix("../")).resolve().exists()
