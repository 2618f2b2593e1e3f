"""NavTalk messages that nobody documented: every text is a message or a RemoteProtocolError."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.navtalk_messages import KEYS, TYPES, broken_often, read_both_ways
from tests.golden.navtalk import LINES, Line, seeds

HERE = Path(__file__).parent
SEEDS = HERE / "seeds" / "navtalk"
# Three seconds on one core.
FUZZ_RUNS = 50_000

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["AAA=", "stun:a"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
messages = st.builds(
    lambda type_name, prefix, fields: fields | {"type": prefix + type_name},
    st.sampled_from(TYPES),
    st.sampled_from(["", "realtime."]),
    st.dictionaries(st.sampled_from(KEYS), values, max_size=5),
)


@pytest.mark.parametrize("line", LINES, ids=str)
@given(random=st.randoms(use_true_random=False), times=st.integers(1, 4))
def test_a_documented_message_that_is_broken_is_read_or_refused(line: Line, random: Random, times: int) -> None:
    read_both_ways(json.dumps(broken_often(line.message, random, times)))


@given(messages)
def test_a_message_of_a_known_type_with_any_content_is_read_or_refused(message: dict[str, Any]) -> None:
    read_both_ways(json.dumps(message))


@given(values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    read_both_ways(json.dumps(value))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    read_both_ways(text)


@pytest.mark.parametrize("seed", sorted(SEEDS.iterdir()), ids=lambda seed: seed.name)
def test_every_kept_input_is_read_or_refused(seed: Path) -> None:
    read_both_ways(seed.read_bytes().decode("utf-8", "replace"))


def test_every_documented_message_is_a_seed() -> None:
    missing = seeds().keys() - {seed.name for seed in SEEDS.iterdir()}
    assert not missing, "write them: python -m tests.golden.navtalk tests/fuzz/seeds/navtalk"


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has wheels for x86-64 and Python below 3.14 alone"
)
def test_what_coverage_finds_is_read_or_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    fuzzer = subprocess.run(
        [
            sys.executable,
            HERE / "atheris_navtalk.py",
            f"-runs={FUZZ_RUNS}",
            "-seed=1",
            f"-artifact_prefix={tmp_path}/",
            corpus,
            SEEDS,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert fuzzer.returncode == 0, fuzzer.stderr
    assert f"Done {FUZZ_RUNS} runs" in fuzzer.stderr
