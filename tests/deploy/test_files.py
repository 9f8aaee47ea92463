"""What the files for deployment say of Tollbridge is so: names, limits and times. No program but Python is needed."""

import json
import re

import pytest
from tests.deploy.programs import DEPLOY, ROOT

from tollbridge.config.table import SETTINGS
from tollbridge.metrics import METRICS

MONITORING = DEPLOY / "monitoring"
NAMES = {metric.name for metric in METRICS}
SERIES = NAMES | {
    f"{metric.name}{part}" for metric in METRICS if metric.type == "histogram" for part in ("_bucket", "_sum", "_count")
}
NAME = re.compile(r"\b(?:tollbridge|process)_[a-z_]+\b")
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def expressions() -> dict[str, list[str]]:
    """What is asked of Prometheus, by file."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    return {"dashboard": asked, "alerts": re.findall(r"^ +expr: (.*)$", (MONITORING / "alerts.yaml").read_text(), re.M)}


@pytest.mark.parametrize("file", ["dashboard", "alerts"])
def test_only_metrics_that_exist_are_asked_for(file: str) -> None:
    asked = expressions()[file]
    assert len(asked) > 15
    assert {name for expression in asked for name in NAME.findall(expression)} <= SERIES


def test_no_metric_is_told_that_nobody_looks_at() -> None:
    asked = " ".join(expression for each in expressions().values() for expression in each)
    looked_at = {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAME.findall(asked)}
    assert looked_at >= NAMES


def test_labels_are_those_of_their_metric() -> None:
    labels = {metric.name: set(metric.labels) | {"le", "instance", "job", "process"} for metric in METRICS}
    for expression in (each for asked in expressions().values() for each in asked):
        for name, chosen in re.findall(r"\b((?:tollbridge|process)_[a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", chosen)) <= labels[name], expression
        grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
        known = set().union(*(labels[re.sub(r"_bucket$", "", name)] for name in NAME.findall(expression)), {"le"})
        assert grouped <= known, expression


def test_each_metric_is_described() -> None:
    page = (ROOT / "docs" / "operate" / "monitoring.md").read_text()
    assert {name for name in NAMES if f"`{name}`" not in page} == set()


def test_panels_do_not_lie_on_each_other() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_whoever_stops_a_gateway_waits_until_it_has_drained() -> None:
    least = seconds(DEFAULTS["server.drain"]) + 30
    unit = (DEPLOY / "systemd" / "tollbridge.service").read_text()
    assert seconds(re.findall(r"^TimeoutStopSec=(\d+)s$", unit, re.M)[0]) >= least
    for file in ("compose.yaml", "compose.dev.yaml"):
        graces = re.findall(r"^ *stop_grace_period: (\d+)s$", (DEPLOY / file).read_text(), re.M)
        assert int(graces[0]) >= least
    values = (DEPLOY / "helm" / "tollbridge" / "values.yaml").read_text()
    assert int(re.findall(r"^terminationGracePeriodSeconds: (\d+)$", values, re.M)[0]) >= least
    assert str(least) in (ROOT / "Dockerfile").read_text()


def test_no_proxy_decides_before_the_gateway_does() -> None:
    nginx = (DEPLOY / "nginx" / "nginx.conf").read_text()
    caddy = (DEPLOY / "caddy" / "Caddyfile").read_text()
    longest = seconds(DEFAULTS["providers.NAME.total_timeout"])
    for found in (
        *re.findall(r"proxy_read_timeout (\d+)s", nginx),
        *re.findall(r"response_header_timeout (\d+)", caddy),
    ):
        assert int(found) > longest
    # Whoever keeps a connection longer than the gateway sends a request into one that is closed.
    kept = seconds(DEFAULTS["server.keep_alive"])
    upstream = nginx[nginx.index("upstream gateway") : nginx.index("limit_conn_zone")]
    assert int(re.findall(r"keepalive_timeout (\d+)s", upstream)[0]) < kept
    assert int(re.findall(r"keepalive (\d+)s", caddy)[0]) < kept
    assert DEFAULTS["server.max_body"] == "10MiB"
    assert "client_max_body_size 11m;" in nginx


def test_no_proxy_sends_a_paid_call_twice() -> None:
    nginx = (DEPLOY / "nginx" / "nginx.conf").read_text()
    directives = re.sub(r"#.*", "", nginx)
    assert re.findall(r"proxy_next_upstream ([^;]*);", directives) == ["error timeout"]
    values = (DEPLOY / "helm" / "tollbridge" / "values.yaml").read_text()
    assert re.findall(r"proxy-next-upstream: (.*)", values) == ["error timeout"]
    assert "lb_retry_match" not in (DEPLOY / "caddy" / "Caddyfile").read_text()


def test_the_image_is_made_of_locked_wheels_alone() -> None:
    text = (ROOT / "Dockerfile").read_text()
    installs = [line for line in text.replace("\\\n", "").splitlines() if '"install"' in line and "pip" in line]
    assert len(installs) == 1
    assert '"--require-hashes", "--only-binary", ":all:", "--requirement", "requirements/run.lock"' in re.sub(
        r"\s+", " ", installs[0]
    )
    assert "apt-get" not in text
    assert re.findall(r"^USER (.*)$", text, re.M) == ["65532:65532"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    # Nothing comes into it that is not named.
    assert ignored[1] == "*"
    sources = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M) for word in line.split()]
    assert {f"!{source}" for source in sources} == {line for line in ignored if line.startswith("!")}
