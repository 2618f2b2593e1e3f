"""The manifests: valid by Kubernetes' own schemas, and true to what the daemon needs."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import bridge
from bridge.config import Config
from bridge.config_file import load_config
from bridge.daemon import END_S
from bridge.errors import ConfigError
from bridge.supervisor import LAST_WORDS_S
from tests.conftest import unavailable

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAY = KUBERNETES / "overlays" / "example"
BASE = sorted(path for path in (KUBERNETES / "base").glob("*.yaml") if path.name != "kustomization.yaml")
POD_MONITOR_SCHEMA = yaml.safe_load(Path(__file__).with_name("podmonitor.schema.yaml").read_text())
# The oldest that upstream still mends would do; every newer one takes what it takes.
VERSION = "1.32"
# For the hook that begins to drain: the command starts within a second.
HOOK_S = 5.0


def validate(manifest: dict[str, Any]) -> None:
    if manifest["kind"] == "PodMonitor":
        jsonschema.validate(manifest, POD_MONITOR_SCHEMA)
        return
    try:
        import kubernetes_validate
    except ImportError:
        unavailable("kubernetes-validate is not installed (tests/peers/requirements.lock)")
    kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """What the example overlay makes of the base."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed, and is in no package of Debian 12 that could be")
    made = subprocess.run([kubectl, "kustomize", OVERLAY], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    return list(yaml.safe_load_all(made.stdout))


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def base(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((KUBERNETES / "base" / f"{name}.yaml").read_text()))


def pod() -> dict[str, Any]:
    return dict(base("statefulset")["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The example's configuration, its secrets in files that exist."""
    for name in ("navtalk", "operator-token", "twitch"):
        (tmp_path / name).write_text(f"{name}-0123456789abcdef\n")
    path = tmp_path / "bridge.yaml"
    path.write_text((OVERLAY / "bridge.yaml").read_text().replace("/run/secrets/avatar-bridge", str(tmp_path)))
    return load_config(path, {"NODE_ADDRESS": "203.0.113.7"})


# ---------------------------------------------------------------------------------------------- by the schemas


@pytest.mark.peer
@pytest.mark.parametrize("path", [*BASE, KUBERNETES / "podmonitor" / "podmonitor.yaml"], ids=lambda path: path.stem)
def test_a_manifest_is_valid(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        validate(manifest)


@pytest.mark.peer
def test_what_the_overlay_makes_is_valid(rendered: list[dict[str, Any]]) -> None:
    kinds = {"StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap", "Secret", "PodMonitor"}
    assert {manifest["kind"] for manifest in rendered} == kinds
    for manifest in rendered:
        validate(manifest)


def test_a_mistake_in_a_pod_monitor_is_found() -> None:
    monitor = yaml.safe_load((KUBERNETES / "podmonitor" / "podmonitor.yaml").read_text())
    monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "5s"
    with pytest.raises(jsonschema.ValidationError):
        validate(monitor)


# ---------------------------------------------------------------------------------------------- one publisher, ever


def test_there_is_one_publisher_ever() -> None:
    spec = base("statefulset")["spec"]
    assert (spec["replicas"], spec["updateStrategy"]) == (1, {"type": "OnDelete"})
    assert base("poddisruptionbudget")["spec"]["maxUnavailable"] == 0


def test_two_overlays_do_not_meet(rendered: list[dict[str, Any]]) -> None:
    labels = {"app.kubernetes.io/name": "avatar-bridge", "app.kubernetes.io/instance": "leo"}
    spec = one(rendered, "StatefulSet")["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] == labels
    assert one(rendered, "Service")["spec"]["selector"] == labels
    assert one(rendered, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        assert one(rendered, kind)["spec"]["selector"]["matchLabels"] == labels
    assert all(manifest["metadata"]["name"].startswith("avatar-bridge") for manifest in rendered)
    assert spec["serviceName"] == one(rendered, "Service")["metadata"]["name"] == "avatar-bridge-leo"


def test_the_pod_mounts_what_the_overlay_makes(rendered: list[dict[str, Any]]) -> None:
    volumes = {volume["name"]: volume for volume in one(rendered, "StatefulSet")["spec"]["template"]["spec"]["volumes"]}
    config, secret = one(rendered, "ConfigMap"), one(rendered, "Secret")
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    assert volumes["secrets"]["secret"]["secretName"] == secret["metadata"]["name"]
    named = set(re.findall(r"/run/secrets/avatar-bridge/([\w-]+)", config["data"]["bridge.yaml"]))
    assert named == set(secret["data"]) == {path.name for path in (OVERLAY / "secrets").iterdir()}


# ---------------------------------------------------------------------------------------------- true to the daemon


def test_it_is_given_the_time_that_draining_takes(config: Config) -> None:
    assert pod()["terminationGracePeriodSeconds"] >= config.drain_s + LAST_WORDS_S + END_S + HOOK_S
    assert config.drain_s == Config.model_fields["drain_s"].default


def test_the_hook_is_a_command_that_there_is(config: Config) -> None:
    command = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:3] == ["avatar-bridge", "ctl", "--token-file"] and command[4:] == ["drain"]
    (token,) = config.http.tokens
    assert Path(command[3]).name == "operator-token" and "control" in token.scopes


def test_probes_ask_what_answers_without_a_token(config: Config) -> None:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container()[probe]["httpGet"]
        assert asked["path"] in ("/healthz", "/readyz")
        (host,) = asked["httpHeaders"]
        assert host["name"] == "Host" and host["value"] in config.http.allowed_hosts


def test_the_operators_token_does_all_that_the_page_does(config: Config) -> None:
    (token,) = config.http.tokens
    assert set(token.scopes) == {"read", "control", "ingest", "view"}


def test_ports_are_those_of_the_configuration(config: Config) -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert config.metrics.listen is not None and config.ice.udp_ports is not None
    assert ports == {"http": config.http.listen.port, "metrics": config.metrics.listen.port}
    patch = yaml.safe_load((OVERLAY / "media-ports.yaml").read_text())
    (patched,) = patch["spec"]["template"]["spec"]["containers"]
    media = [port for port in patched["ports"] if port["protocol"] == "UDP"]
    assert [port["hostPort"] for port in media] == [port["containerPort"] for port in media]
    assert [port["hostPort"] for port in media] == list(config.ice.udp_ports)
    allowed = [port for rule in base("networkpolicy")["spec"]["ingress"] for port in rule["ports"]]
    (udp,) = (port for port in allowed if port["protocol"] == "UDP")
    assert (udp["port"], udp["endPort"]) == (config.ice.udp_ports[0], config.ice.udp_ports[-1])


def test_the_example_opens_nothing_before_its_token_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "bridge.yaml"
    text = (OVERLAY / "bridge.yaml").read_text()
    path.write_text(text.replace("/run/secrets/avatar-bridge", str(OVERLAY / "secrets")))
    with pytest.raises(ConfigError, match="holds no token"):
        load_config(path, {"NODE_ADDRESS": "203.0.113.7"})


def test_the_pod_may_do_next_to_nothing() -> None:
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "cpu" not in container()["resources"]["limits"]  # throttled is late


def test_the_image_is_of_this_version(rendered: list[dict[str, Any]]) -> None:
    assert container()["image"] == f"avatar-bridge:{bridge.__version__}"
    (made,) = one(rendered, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert made["image"].endswith(f"/avatar-bridge:{bridge.__version__}")


# ---------------------------------------------------------------------------------------------- the container


CONTAINERFILE = KUBERNETES.parent / "Containerfile"


def instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        yield word, rest


def test_the_image_runs_as_nobody_and_is_asked_whether_it_lives() -> None:
    last: dict[str, str] = {}
    for word, rest in instructions():
        last = {} if word == "FROM" else last  # of the last stage
        last[word] = rest
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"]) and last["USER"] == "65532:65532"
    assert "/healthz" in last["HEALTHCHECK"]
    assert pod()["securityContext"]["runAsUser"] == 65532
    assert [word for word, _ in instructions()].count("ADD") == 0
    assert all(rest.split(" ")[0].endswith("-slim") for word, rest in instructions() if word == "FROM")


def test_the_image_holds_wheels_of_the_lock_alone() -> None:
    installing = [rest for word, rest in instructions() if word == "RUN" and "pip" in rest]
    assert len(installing) == 2
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(installing[0].split())
    assert {"--no-index", "--find-links"} <= set(installing[1].split())


def test_what_the_image_copies_is_there_and_nothing_else_is_sent() -> None:
    root = CONTAINERFILE.parents[1]
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert all((root / source).exists() for source in copied)
    ignored = (root / ".dockerignore").read_text().splitlines()
    assert "*" in ignored and {f"!{source}" for source in copied} == {line for line in ignored if line.startswith("!")}
