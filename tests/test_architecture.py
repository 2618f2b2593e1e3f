"""Who may import whom, and what pure packages may not touch: the layout of the program, as a test."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BRIDGE = ROOT / "bridge"

# What a package may import of the bridge, besides itself. A package that is not listed does not exist yet.
MAY_IMPORT = {
    "media": {"errors"},
    "dsp": {"media", "errors"},
    "receive": {"media", "errors"},
    "timeline": {"media", "errors"},
    "protocols": {"media", "errors"},
    "net": {"atomic_file", "media", "errors", "protocols", "ports", "redact"},
    "inputs": {"protocols", "net", "media", "errors", "ports", "redact", "worker", "child"},
    "outputs": {"protocols", "net", "media", "errors", "ports", "presets", "redact", "worker", "child"},
    "providers": {"protocols", "net", "media", "errors", "ports", "redact"},
    "ops": {"config", "events", "protocols", "net", "media", "errors", "ports", "redact"},
    "local_avatar": {"protocols", "net", "media", "errors", "redact"},
    "samples": set(),
}
# The front door of a stage chooses an implementation by configuration.
MAY_READ_CONFIG = {"inputs", "outputs", "providers"}

STAGES = {"inputs", "dsp", "providers", "receive", "timeline", "outputs"}
# Modules of their own, that all may lean on.
FOUNDATION = {
    "errors": set[str](),
    "redact": set[str](),
    "ports": {"media", "errors"},
    "config": {"errors", "event_types", "redact", "media", "presets", "protocols"},
    "presets": set[str](),
    "signals": set[str](),
    "worker": set[str](),
    "child": set[str](),
    "atomic_file": set[str](),
    "answer": {"media"},
    "captions": {"ports"},
    "event_types": set[str](),
    "events": {"event_types"},
    "history": {"atomic_file", "errors", "worker"},
    "tool_calls": {"errors", "ports"},
}
# The only ones that know two stages.
COMPOSITION = {
    *("session", "avatar", "renewal", "connection", "dialogue", "programme", "reception", "uplink", "telemetry"),
    *("air", "desk", "feed", "ear", "hush", "reply", "track_reception", "reload", "distribution"),
    *("status", "transcript", "trend"),
    *("daemon", "supervisor", "demo", "clip", "cli", "check", "__main__", "__init__"),
}

PURE = {"dsp", "receive", "timeline", "protocols"}
BANNED_IN_PURE = {"asyncio", "socket", "threading", "time", "subprocess", "random", "aiortc", "aioice", "av"}


@dataclass(frozen=True)
class Module:
    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    @cached_property
    def place(self) -> str:
        """The package under bridge/, or the module's own name for one at the top; `config_file` counts as config."""
        first = self.path.relative_to(BRIDGE).parts[0].removesuffix(".py")
        return "config" if first.startswith("config_") else first

    @cached_property
    def is_front_door(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def imports(self) -> set[str]:
        """Full names of the modules that are imported, at any depth, also for type checkers only."""
        return set(self._imports())

    def _imports(self) -> Iterator[str]:
        package = ("bridge", *self.path.relative_to(BRIDGE).parts[:-1])
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
                module = ".".join(filter(None, (base, node.module)))
                # `from bridge import media` imports bridge.media.
                yield from (f"{module}.{alias.name}" for alias in node.names) if module == "bridge" else (module,)

    @cached_property
    def bridge_places(self) -> set[str]:
        places = {name.split(".")[1] for name in self.imports if name.startswith("bridge.")}
        places = {"config" if place.startswith("config_") else place for place in places}
        # Facts about the package itself, such as bridge.__version__.
        return {place for place in places if not place.startswith("__")} - {self.place}

    @cached_property
    def outside(self) -> set[str]:
        return {name.split(".")[0] for name in self.imports} - {"bridge"}


MODULES = [Module(path) for path in sorted(BRIDGE.rglob("*.py"))]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_down_the_layout(module: Module) -> None:
    if module.place in COMPOSITION:
        return
    allowed = MAY_IMPORT.get(module.place, FOUNDATION.get(module.place))
    assert allowed is not None, (
        f"{module} has no place in the layout: say in tests/test_architecture.py what it may know"
    )
    if module.place in MAY_READ_CONFIG and module.is_front_door:
        allowed = allowed | {"config"}
    assert module.bridge_places <= allowed, f"{module} may not import {module.bridge_places - allowed}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.place not in COMPOSITION], ids=str)
def test_only_composition_knows_two_stages(module: Module) -> None:
    stages = (module.bridge_places | {module.place}) & STAGES
    assert len(stages) <= 1, f"{module} knows {stages}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.place in PURE], ids=str)
def test_pure_packages_decide_and_do_not_move(module: Module) -> None:
    banned = module.outside & BANNED_IN_PURE
    # A script beside its product, such as the one that computes filter taps, is a program and no part of the stage.
    assert not banned or _is_script(module), f"{module} imports {banned}: time and data are arguments"


def _is_script(module: Module) -> bool:
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in module.tree.body
    )


@pytest.mark.parametrize("module", [m for m in MODULES if m.place != "net"], ids=str)
def test_private_names_of_the_webrtc_stack_are_touched_in_net_only(module: Module) -> None:
    private = {name for name in module.imports if name.startswith(("aiortc.", "aioice.")) and "._" in name}
    assert not private
    if not module.outside & {"aiortc", "aioice"}:
        return
    touched = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert not touched, f"{module}: {touched}"


def test_the_local_avatar_meets_the_bridge_only_through_a_url() -> None:
    for module in MODULES:
        if module.place not in ("cli", "demo", "local_avatar"):
            assert "local_avatar" not in module.bridge_places, module


@pytest.mark.parametrize("module", [m for m in MODULES if m.tree.body], ids=str)
def test_a_module_says_in_its_first_line_what_it_is(module: Module) -> None:
    docstring = ast.get_docstring(module.tree)
    assert docstring, module
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_who_catches_everything_hands_it_on_or_shows_it_whole(module: Module) -> None:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = ast.unparse(node.type) if node.type else "everything"
        if caught in ("everything", "Exception", "BaseException"):
            inner = list(ast.walk(node))
            calls = {
                call.func.attr for call in inner if isinstance(call, ast.Call) if isinstance(call.func, ast.Attribute)
            }
            shown = {"exception", "set_exception", "format_exception"}
            assert any(isinstance(step, ast.Raise) for step in inner) or calls & shown, (
                f"{module}:{node.lineno} catches {caught} and hides it"
            )


def test_the_standard_library_is_not_shadowed() -> None:
    assert not {module.path.stem for module in MODULES if module.path.parent == BRIDGE} & sys.stdlib_module_names - {
        "__init__",
        "__main__",
    }
