"""The manifests say what the service is: its settings, paths and port, and one another's names."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from bss_service.http.server import DRAIN_SECONDS
from bss_service.settings import Settings
from tests.support.services import Service

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/kubernetes"
OBJECTS = [made for file in sorted(FOLDER.glob("*.yaml")) for made in yaml.safe_load_all(file.read_text())]
SECRET = {"store": "postgresql://bss:secret@db.example/scheduler", "token": "a-token-that-only-tests-use"}


def made(kind: str, name: str = "bss") -> Any:
    [found] = [one for one in OBJECTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found["spec"]


POD = made("StatefulSet")["template"]
[CONTAINER] = POD["spec"]["containers"]


def environment() -> dict[str, str]:
    """What the container finds, in the first pod of a namespace."""
    found: dict[str, str] = {}
    for variable in CONTAINER["env"]:
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            value = {"metadata.name": "bss-0", "metadata.namespace": "lab"}[source["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in source:
            assert source["secretKeyRef"]["name"] == "bss"
            value = SECRET[source["secretKeyRef"]["key"]]
        else:
            value = variable["value"]
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        found[variable["name"]] = value
    return found


@pytest.mark.parametrize("version", ["1.25", "1.37"])  # the oldest and the newest whose schemas there are
def test_kubernetes_takes_the_manifests_and_knows_each_field_of_them(version: str) -> None:
    known = [one for one in OBJECTS if one["kind"] != "ServiceMonitor"]  # which is Prometheus' operator's
    assert len(known) == len(OBJECTS) - 1
    for one in known:
        kubernetes_validate.validate(one, version, strict=True)
    misspelt, mistyped = (deepcopy(one) for one in (OBJECTS[0], OBJECTS[0]))
    misspelt["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    mistyped["spec"]["replicas"] = "three"
    for wrong, named in ((misspelt, "readinesProbe"), (mistyped, "three")):
        with pytest.raises(kubernetes_validate.ValidationError, match=named):
            kubernetes_validate.validate(wrong, version, strict=True)


def test_the_container_has_settings_that_the_service_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment()
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    named = {name.removeprefix("BSS_").lower() for name in found if name.startswith("BSS_")}
    assert named <= Settings.model_fields.keys()
    members = made("StatefulSet")["serviceName"]
    assert settings.advertise == f"http://bss-0.{members}.lab.svc:{settings.port}"
    assert (settings.host, settings.store) == ("0.0.0.0", SECRET["store"])
    assert POD["spec"]["enableServiceLinks"] is False  # or BSS_PORT would be one


def test_all_speak_of_the_same_pods_and_port() -> None:
    labels, port = POD["metadata"]["labels"], int(environment()["BSS_PORT"])
    [opened] = CONTAINER["ports"]
    assert opened["containerPort"] == port
    assert made("StatefulSet")["selector"]["matchLabels"] == labels
    for service in ("bss", made("StatefulSet")["serviceName"]):
        spec = made("Service", service)
        assert spec["selector"] == labels
        assert [(p["port"], p["targetPort"]) for p in spec["ports"]] == [(port, opened["name"])]
    assert made("Service", "bss-members")["clusterIP"] == "None"
    budget, policy = made("PodDisruptionBudget"), made("NetworkPolicy")
    assert budget["selector"]["matchLabels"] == policy["podSelector"]["matchLabels"] == labels
    assert 0 < budget["maxUnavailable"] < made("StatefulSet")["replicas"]
    assert [p["port"] for rule in policy["ingress"] for p in rule["ports"]] == [port]
    assert {p["port"] for rule in policy["egress"] for p in rule["ports"]} == {53, 5432}
    [watched] = made("ServiceMonitor")["endpoints"]
    [members] = [one for one in OBJECTS if one["metadata"]["name"] == "bss-members"]
    assert made("ServiceMonitor")["selector"]["matchLabels"] == members["metadata"]["labels"]
    assert watched["port"] == made("Service", "bss-members")["ports"][0]["name"]
    assert watched["authorization"]["credentials"] == {"name": "bss", "key": "token"}


def test_what_is_asked_of_a_pod_it_answers(service: Service) -> None:
    [watched] = made("ServiceMonitor")["endpoints"]
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    for path in [watched["path"], *(probe["path"] for probe in probes)]:
        assert httpx.get(f"{service.url}{path}").status_code == 200
    assert {probe["port"] for probe in probes} == {"http"}


def test_it_runs_as_its_image_does_and_may_do_no_more_than_it_must() -> None:
    user = int(next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("USER "))[5:10])
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert (pod["runAsUser"], pod["runAsNonRoot"]) == (user, True)
    assert container["readOnlyRootFilesystem"] and not container["allowPrivilegeEscalation"]
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert {mount["mountPath"] for mount in CONTAINER["volumeMounts"]} == {"/tmp", "/data"}
    assert POD["spec"]["terminationGracePeriodSeconds"] > 2 * DRAIN_SECONDS
    texts = "".join(file.read_text() for file in FOLDER.glob("*.yaml"))
    assert "kind: Secret\n" not in texts
