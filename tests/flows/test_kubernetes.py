"""The Kubernetes example, as far as files can tell without a cluster: they load, refer to what
there is, hold no secret and open nothing.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from flows import deploy, remote_stage
from tasks.core.privacy import SILENT
from tasks.core.secrets import SECRET
from tests.conftest import ROOT
from tests.test_graph import STAGES

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
OBJECTS: list[dict[str, Any]] = [
    found for path in FILES for found in yaml.safe_load_all(path.read_text())
]


def _named(kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] == kind}


def _pods() -> dict[str, dict[str, Any]]:
    return {name: found["spec"]["template"]["spec"] for name, found in _named("Deployment").items()}


def _containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for pod in _pods().values():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield pod, container


def _settings() -> dict[str, str]:
    found: dict[str, str] = _named("ConfigMap")["settings"]["data"]
    return found


def _values(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)


def test_a_worker_keeps_its_name_when_its_pod_is_made_again() -> None:
    """Only the machine that a dead run names may end it, and until then it counts against the
    pool's limit: no other run would start.
    """
    assert _pods()["worker-pipeline"].get("hostname") == "worker-pipeline"


def test_every_object_is_named_once() -> None:
    assert FILES and {found["kind"] for found in OBJECTS} == {
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Service",
    }
    names = [(found["apiVersion"], found["kind"], found["metadata"]["name"]) for found in OBJECTS]
    assert len(set(names)) == len(names)


def test_a_worker_for_every_pool() -> None:
    asked = {
        command[command.index("--pool") + 1]
        for _, container in _containers()
        if "--pool" in (command := container["command"])
    }
    listed = {
        own["work_pool"]["name"]
        for own in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    assert listed == {deploy.POOL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(remote_stage.VARIABLE, _settings()[remote_stage.VARIABLE])
        placed = remote_stage.read_pools(STAGES)
    assert placed and asked == listed | set(placed.values())


def test_every_program_is_there() -> None:
    modules = {
        command[command.index("-m") + 1]
        for _, container in _containers()
        for command in [container["command"]]
    }
    modules |= set(re.findall(r'"-m", "([\w.]+)"', (ROOT / "deploy" / "Dockerfile").read_text()))
    assert modules == {"prefect", "uvicorn", "mlflow", "flows.deploy", "flows.pipeline"}
    assert all(importlib.util.find_spec(module) for module in modules)


def test_what_a_pod_refers_to_is_defined() -> None:
    for pod, container in _containers():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        assert {own["configMapRef"]["name"] for own in container["envFrom"]} <= set(
            _named("ConfigMap")
        )
    claims = {
        own["claimName"]
        for _, own in _values(OBJECTS)
        if isinstance(own, dict) and "claimName" in own
    }
    assert claims == set(_named("PersistentVolumeClaim"))
    for found in _named("Deployment").values():
        assert (
            found["spec"]["selector"]["matchLabels"].items()
            <= found["spec"]["template"]["metadata"]["labels"].items()
        )


def test_workers_share_the_checkout() -> None:
    for name, pod in _pods().items():
        if name.startswith("worker-"):
            (worker,) = pod["containers"]
            assert {"name": "checkout", "mountPath": _settings()["PIPELINE_HOME"]} in worker[
                "volumeMounts"
            ]
            assert worker["workingDir"] == _settings()["PIPELINE_HOME"]
            assert (
                _settings()["BONITO_CACHE"].startswith("/models/")
                and {"name": "models", "mountPath": "/models"} in worker["volumeMounts"]
            )
    assert all(
        _named("PersistentVolumeClaim")[name]["spec"]["accessModes"] == ["ReadWriteMany"]
        for name in ("checkout", "models")
    )
    assert "nvidia.com/gpu" in _pods()["worker-gpu"]["containers"][0]["resources"]["limits"]


def test_servers_are_found_where_the_settings_say() -> None:
    for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        address = urlsplit(_settings()[variable])
        service = _named("Service")[str(address.hostname)]["spec"]
        assert address.port in [own["port"] for own in service["ports"]]
        assert (
            service["selector"]
            == _named("Deployment")["servers"]["spec"]["selector"]["matchLabels"]
        )


def test_nothing_is_opened_to_the_outside() -> None:
    assert all(service["spec"]["type"] == "ClusterIP" for service in _named("Service").values())
    told = dict(_values(OBJECTS))
    assert not {
        "hostNetwork",
        "hostPort",
        "nodePort",
        "externalIPs",
        "hostPath",
        "privileged",
        "loadBalancerIP",
    } & set(told)
    assert _named("NetworkPolicy")["servers"]["spec"]["podSelector"]["matchLabels"] == {
        "app": "servers"
    }
    for pod, container in _containers():
        assert (
            pod["securityContext"]["runAsNonRoot"]
            and not container["securityContext"]["allowPrivilegeEscalation"]
        )
        assert pod["automountServiceAccountToken"] is False


def test_nothing_phones_home() -> None:
    """The servers start without our code, which would see to it."""
    assert {name: _settings().get(name) for name in SILENT} == SILENT
    assert all(isinstance(value, str) for value in _settings().values())


def test_no_secret_and_no_address_of_a_registry() -> None:
    texts = [
        path.read_text() for path in (*FILES, FOLDER / "README.md", ROOT / "deploy" / "Dockerfile")
    ]
    assert not any(SECRET.search(text) for text in texts)
    asked = {
        own["secretKeyRef"]["name"]
        for _, own in _values(OBJECTS)
        if isinstance(own, dict) and "secretKeyRef" in own
    }
    assert (
        asked == {"passwords"}
        and "create secret generic passwords --from-literal=prefect="
        in (FOLDER / "README.md").read_text()
    )
    assert {container["image"] for _, container in _containers()} == {
        "bonito-pipeline:1",
        "bonito-pipeline:1-gpu",
    }
    docker = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", docker, re.MULTILINE) == ["python:3.11-slim"]
    assert "://" not in docker


def test_what_the_image_is_made_of_is_there_and_sent() -> None:
    docker = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = [line.split()[1] for line in docker.splitlines() if line.startswith("COPY ")]
    assert copied and all((ROOT / name).exists() for name in copied)
    kept = [
        line[1:]
        for line in (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert kept == copied
    assert (Path(ROOT) / "requirements" / "cpu.txt").is_file() and (
        Path(ROOT) / "requirements" / "gpu.txt"
    ).is_file()


def test_it_is_said_that_no_cluster_ran_it() -> None:
    assert "not run on a cluster" in (FOLDER / "README.md").read_text()
