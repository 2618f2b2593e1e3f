"""What a changed configuration asks for, and that it asks for nothing else."""

from pathlib import Path
from typing import Any

from bridge.config import Config, HttpConfig, InputConfig, NavTalkConfig, OutputConfig, SessionConfig, parse_address
from bridge.redact import Secret
from bridge.reload import Changes, OutputChanges, after_reload, changes


def output(name: str) -> OutputConfig:
    return OutputConfig(url=Secret.url(f"file:{name}.mp4"))


def session(voice: str | None = None, **outputs: OutputConfig) -> SessionConfig:
    return SessionConfig(
        avatar=NavTalkConfig(license=Secret("sk_test"), name="navtalk.Leo", voice=voice),
        inputs={"speech": InputConfig(url=Secret.url("file:speech.wav"))},
        outputs=outputs or {"archive": output("leo")},
    )


def config(sessions: dict[str, SessionConfig], **keys: Any) -> Config:
    return Config(sessions=sessions, **keys)


NOTHING = Changes(frozenset(), frozenset(), {}, {}, ())


def test_the_same_file_changes_nothing(tmp_path: Path) -> None:
    found = changes(config({"leo": session()}), config({"leo": session()}, drain_s=3.0))
    assert found == NOTHING
    assert found.are_none


def test_sessions_come_and_go() -> None:
    found = changes(config({"leo": session(), "mia": session()}), config({"leo": session(), "zoe": session()}))
    assert found == Changes(frozenset({"mia"}), frozenset({"zoe"}), {}, {}, ())


def test_outputs_change_while_the_session_goes_on() -> None:
    kept, old, new = output("kept"), output("old"), output("new")
    before = session(kept=kept, changed=old, gone=old)
    after = session(kept=kept, changed=new, more=new)
    found = changes(config({"leo": before}), config({"leo": after}))
    assert found.restarted == {}
    assert found.outputs == {"leo": OutputChanges(frozenset({"gone"}), {"changed": new, "more": new})}


def test_another_avatar_begins_the_session_anew_with_its_outputs() -> None:
    found = changes(config({"leo": session()}), config({"leo": session("sage", archive=output("another"))}))
    assert found.restarted == {"leo": ("avatar", "outputs")}
    assert found.outputs == {}


def test_what_only_a_restart_can_apply_is_named() -> None:
    found = changes(
        config({"leo": session()}), config({"leo": session()}, http=HttpConfig(listen=parse_address("127.0.0.1:9090")))
    )
    assert found.pending == ("http",)


def test_a_reload_keeps_what_calls_have_made_of_sessions_that_the_file_says_nothing_new_of() -> None:
    before = {"leo": session(), "mia": session(), "zoe": session(), "tom": session()}
    after = {"leo": session(), "mia": session("sage"), "tom": session(), "new": session()}
    # leo was changed, mia too, tom removed, and ann begun.
    running = {"leo": session("alloy"), "mia": session("alloy"), "zoe": session(), "ann": session()}
    assert after_reload(running, before, after) == {
        "leo": session("alloy"),
        "mia": session("sage"),
        "ann": session(),
        "new": session(),
    }
