"""The chart, by Helm itself and against the schemas of Kubernetes. It was never installed in a cluster."""

from pathlib import Path
from typing import Any

import pytest
from tests.deploy.programs import DEPLOY, output, program, read_yaml

from tollbridge.config import Source, read

pytestmark = pytest.mark.deploy

CHART = DEPLOY / "helm" / "tollbridge"
LEAST = ("--set", "publicUrl=https://api.example.com,existingSecret=theirs")
EXTRAS = (
    *("ingress.enabled=true", "ingress.tlsSecret=tls", "autoscaling.enabled=true", "networkPolicy.enabled=true"),
    *("serviceMonitor.enabled=true", "trustedProxies={10.1.0.0/16}", "podAnnotations.a=b"),
    "persistence.storageClass=fast",
)
ALL = (*LEAST, "--set", ",".join(EXTRAS))
# Not Kubernetes' own.
FOREIGN = {"ServiceMonitor"}


def rendered(*options: str) -> dict[str, Any]:
    """The manifests by kind and name."""
    text = output(program("helm"), "template", "shop", CHART, *options)
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in read_yaml(text) if each}


def test_helm_finds_no_fault() -> None:
    output(program("helm"), "lint", "--strict", CHART, *LEAST)


@pytest.mark.parametrize("options", [LEAST, ALL])
def test_each_manifest_is_what_kubernetes_takes(options: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(output(program("helm"), "template", "shop", CHART, *options))
    told = output(program("kubernetes-validate"), "--strict", file)
    passed = {kind for kind in rendered(*options) if f"passed for resource {kind.lower()} " in told}
    assert {kind for kind in rendered(*options) if kind not in passed} <= {
        f"{kind}/shop-tollbridge" for kind in FOREIGN
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("existingSecret=s", "publicUrl"),
        ("publicUrl=http://api.example.com,existingSecret=s", "publicUrl"),
        ("publicUrl=https://api.example.com", "existingSecret"),
        ("publicUrl=https://a.example,existingSecret=s,terminationGracePeriodSeconds=30", "150"),
        ("publicUrl=https://a.example,existingSecret=s,replica=3", "replica"),
    ],
)
def test_a_mistake_in_the_values_is_refused(values: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        rendered("--set", values)


def test_a_gateway_has_no_right_that_it_does_not_need() -> None:
    pod = rendered(*ALL)["StatefulSet/shop-tollbridge"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/data", "/tmp"}


def test_what_it_sets_is_what_the_gateway_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment and file of a pod, read by the gateway's own configuration."""
    manifests = rendered(*ALL)
    [container] = manifests["StatefulSet/shop-tollbridge"]["spec"]["template"]["spec"]["containers"]
    secrets = {
        "database-url": "postgresql://tollbridge:test-password@db.internal/tollbridge",
        "master": "test-master-secret-0123456789abcdef",
        "redis-url": "rediss://limits.internal:6379/0",
        "metrics-token": "test-metrics-token",
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value + "\n")
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"].replace("/run/secrets/tollbridge", str(tmp_path)))
    file = tmp_path / "tollbridge.toml"
    file.write_text(manifests["ConfigMap/shop-tollbridge"]["data"]["tollbridge.toml"])
    settings = read(Source(file))
    assert settings.public_url == "https://api.example.com"
    assert settings.database_url.reveal() == secrets["database-url"]
    assert settings.redis_url is not None
    assert settings.redis_url.reveal() == secrets["redis-url"]
    assert settings.metrics_token is not None
    assert settings.metrics_token.reveal() == secrets["metrics-token"]
    assert settings.server.trusted_proxies == ("10.1.0.0/16",)
    assert settings.server.max_connections_per_client == 0
    pod = manifests["StatefulSet/shop-tollbridge"]["spec"]["template"]["spec"]
    server = settings.server
    assert pod["terminationGracePeriodSeconds"] >= server.drain_pause + server.drain_idle + server.drain + 10


def test_only_pods_of_the_release_are_chosen() -> None:
    manifests = rendered(*ALL)
    labels = manifests["StatefulSet/shop-tollbridge"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifests["Service/shop-tollbridge"]["spec"]["selector"],
        manifests["Service/shop-tollbridge-each"]["spec"]["selector"],
        manifests["PodDisruptionBudget/shop-tollbridge"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy/shop-tollbridge"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/instance"] == "shop"
    monitor = manifests["ServiceMonitor/shop-tollbridge"]["spec"]["selector"]["matchLabels"]
    chosen = [kind for kind, each in manifests.items() if monitor.items() <= each["metadata"]["labels"].items()]
    assert chosen == ["Service/shop-tollbridge-each"]
