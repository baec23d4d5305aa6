"""Are the manifests and units in deploy/ what Kubernetes and systemd take, and what this server understands?"""

import json
import os
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

import serving

KUBERNETES = "1.33"
FOLDER = serving.ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))


def documents(file):
    return list(yaml.safe_load_all(file.read_text()))


def pods():
    """Every pod, with the container that is the server."""
    for file in FILES:
        for document in documents(file):
            if document["kind"] == "Deployment":
                pod = document["spec"]["template"]["spec"]
                containers = pod.get("initContainers", []) + pod["containers"]
                yield pytest.param(pod, next(c for c in containers if c["name"] == "tiltyard"), id=file.stem)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(m?s|m|)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "": 1}[unit]


def settings(container):
    return {entry["name"]: entry["value"] for entry in container["env"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kubernetes_takes_them(file):
    for document in documents(file):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_mistake_would_be_found():
    document = documents(FOLDER / "deployment.yaml")[0]
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("pod, container", list(pods()))
def test_the_server_understands_its_settings(pod, container, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
    done = subprocess.run(
        [serving.BINARY, "config", "--output", "json"], capture_output=True, text=True, cwd=tmp_path,
        env=environment | settings(container), timeout=serving.ANSWER_SECONDS_MAX)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["warnings"] == []
    by_variable = {entry["origin"].removeprefix("environment "): entry["value"] for entry in told["settings"]}
    assert {name: by_variable.get(name) for name in settings(container)} == settings(container)


@pytest.mark.parametrize("pod, container", list(pods()))
def test_a_pod_has_the_time_that_its_server_takes_to_end(pod, container):
    given = settings(container)
    takes = seconds(given["TILTYARD_DRAIN_NOTICE"]) + seconds(given["TILTYARD_DRAIN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] >= takes + 5


@pytest.mark.parametrize("pod, container", list(pods()))
def test_probes_ask_what_the_server_answers(pod, container, tmp_path):
    models = serving.link_models(tmp_path / "models", serving.FIXTURES / "two_in_two_out")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    with serving.Server(models, tmp_path) as server:
        standing_in = {8000: server.http_port, 8001: server.grpc_port, 8002: server.admin_port}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]["httpGet"]
            assert server.get(probe["path"], port=standing_in[ports[probe["port"]]]).status == 200


@pytest.mark.parametrize("pod, container", list(pods()))
def test_the_server_has_few_rights(pod, container):
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    for each in pod.get("initContainers", []) + pod["containers"]:
        context = each["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {settings(container)["TILTYARD_DATA_DIR"]}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path):
    for unit in (serving.ROOT / "deploy" / "systemd").iterdir():
        # systemd wants the program to be there.
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/tiltyard", str(serving.BINARY)))
    done = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.iterdir()], capture_output=True, text=True,
        timeout=serving.ANSWER_SECONDS_MAX)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
