"""What deploy/ says of the service is true of it."""

import json
import re
import socket
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.builders import ROOT
from tests.service.live import ask
from tritserve.service.observing.metrics import REFUSALS

DEPLOY = ROOT / "deploy"
METRIC = re.compile(r"\b(?:tritserve|process)_\w+")
SELECTOR = re.compile(r"\b((?:tritserve|process)_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*')
GROUPING = re.compile(r"\bby \(([^)]*)\)")
EMBEDDING = {"/embed", "/v2/infer", "grpc/ModelInfer"}
OF_PROMETHEUS = {"instance", "job"}


def rules():
    (group,) = yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels():
    dashboard = json.loads((DEPLOY / "grafana" / "tritserve.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions():
    yield from ((name, rule["expr"]) for name, rule in rules().items())
    for panel in panels():
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])


@pytest.fixture(scope="module")
def series(engine):
    """The labels of every series in the metrics of a service that was asked nothing."""

    async def talk(client):
        found = {}
        for line in (await client.get("/metrics")).text.splitlines():
            if not line.startswith("#"):
                name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
                labels = found.setdefault(name, {})
                for label, value in re.findall(r'(\w+)="([^"]*)"', rest):
                    labels.setdefault(label, set()).add(value)
        return found

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ask(engine, talk, grpc_port=port)


def matchers(selector):
    found = [MATCHER.fullmatch(part) for part in re.split(r",(?=\s*\w+\s*[=!])", selector)]
    assert all(found), f"{{{selector}}} cannot be read"
    return [match.groups() for match in found]


def matched(values, operator, pattern):
    """Those of the values that a matcher names, be it to take or to leave them."""
    if not operator.endswith("~"):
        return {pattern} & values
    # Each alternative is there for something.
    several = [{v for v in values if re.fullmatch(one, v)} for one in pattern.split("|")]
    return set().union(*several) if all(several) else set()


def test_every_metric_and_label_exists_from_the_start(series):
    used = set()
    for place, expression in expressions():
        names = set(METRIC.findall(expression))
        assert names or "up{" in expression, place
        assert names <= set(series), f"{place}: no {names - set(series)}"
        used |= names
        for name, selector in SELECTOR.findall(expression):
            for label, operator, value in matchers(selector):
                if label in OF_PROMETHEUS:
                    continue
                assert label in series[name], f"{place}: {name} has no {label}"
                assert matched(series[name][label], operator, value), f"{place}: no {label} {value}"
        labels = OF_PROMETHEUS.union(*(series[name] for name in names))
        for grouping in GROUPING.findall(expression):
            assert {label.strip() for label in grouping.split(",")} <= labels, place
    families = {re.sub("_(bucket|count|sum|total|created)$", "", n) for n in series}
    shown = {re.sub("_(bucket|count|sum|total)$", "", name) for name in used}
    assert {n for n in families if n.startswith("tritserve_")} <= shown, "shown nowhere"


def left_by(expression, label, values):
    """What is left of a label's values in each selector of an expression that names it."""
    for _, selector in SELECTOR.findall(expression):
        left = set(values)
        for name, operator, pattern in matchers(selector):
            if name == label:
                hit = {v for v in values if re.fullmatch(pattern, v)}
                left &= values - hit if operator.startswith("!") else hit
        if left != values:
            yield left


def test_embeddings_are_counted_whatever_protocol_asks_for_them(series):
    routes = series["tritserve_requests_total"]["route"]
    by_title = {}
    for title, expression in expressions():
        by_title.setdefault(title, []).extend(left_by(expression, "route", routes))
    for title in ("Embedding requests a second", "p99 of embedding requests"):
        assert by_title[title] == [EMBEDDING], title
    assert by_title["Time to answer embedding requests"] == [EMBEDDING] * 3
    # Probes, which are answered 503 on purpose, are neither errors nor traffic.
    probes = {"/health/live", "/health/ready", "/v2/health"}
    probes |= {"grpc/ServerLive", "grpc/ServerReady", "grpc/Check"}
    asked = routes - probes - {"/metrics"}
    assert by_title["Answers by status"] == [asked]
    assert by_title["TritserveErrors"] == [asked] * 2


def test_what_a_client_causes_is_no_error_of_the_service(series):
    rule = rules()["TritserveErrors"]["expr"]
    statuses = series["tritserve_requests_total"]["status"]
    # Of gRPC: a method that is not there.
    assert "501" in statuses
    assert list(left_by(rule, "status", statuses)) == [{"500", "503"}]
    # How long a request takes to arrive is up to the client.
    assert "tritserve_request_seconds" not in rules()["TritserveSlow"]["expr"]


def test_the_rules_cover_what_can_go_wrong():
    assert set(rules()) >= {
        *("TritserveDown", "TritserveNotReady", "TritserveEngineStuck", "TritserveErrors"),
        *("TritserveQueueFull", "TritserveSlow"),
    }
    for rule in rules().values():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


def test_panels_do_not_overlap():
    taken = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_compose_mounts_what_is_there_and_what_is_read():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    monitoring = {
        name: service
        for name, service in compose["services"].items()
        if service.get("profiles") == ["monitoring"]
    }
    assert set(monitoring) == {"prometheus", "grafana"}
    mounts = {}
    for service in monitoring.values():
        for volume in service["volumes"]:
            source, target, mode = volume.split(":")
            assert mode == "ro"
            assert (ROOT / source).is_file(), source
            mounts[target] = ROOT / source
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    for name in prometheus["rule_files"]:
        assert mounts[f"/etc/prometheus/{name}"] == DEPLOY / name
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yml").read_text())["providers"]
    dashboard = f"{provider['options']['path']}/tritserve.json"
    assert mounts[dashboard] == DEPLOY / "grafana" / "tritserve.json"
    home = monitoring["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == dashboard
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text())["datasources"]
    for panel in panels():
        assert panel["datasource"]["uid"] == source["uid"]


def locked(name):
    """The lines of a lock, by the names of their packages."""
    text = (DEPLOY / "lock" / f"{name}.txt").read_text()
    lines = {}
    for line in text.replace("\\\n", "").splitlines():
        requirement, *hashes = line.split(" --hash=")
        assert hashes, f"{name}: {requirement} has no hash"
        package = Requirement(requirement)
        lines.setdefault(canonicalize_name(package.name), []).append(package)
    return lines


@pytest.mark.parametrize("name", ["build", "serving", "grpc", "tracing"])
def test_what_the_image_installs_is_locked_as_it_is_asked_for(name):
    """If not, `deploy/lock.sh` brings what is asked for into the lock."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        asked = tomllib.load(file)
    project = asked["project"]
    required = {
        "build": [*asked["build-system"]["requires"], "cmake", "ninja"],
        "serving": project["dependencies"],
    }
    lock = locked(name)
    for text in required.get(name) or [
        *project["dependencies"],
        *project["optional-dependencies"][name],
    ]:
        requirement = Requirement(text)
        packages = lock.get(canonicalize_name(requirement.name), [])
        assert packages, f"{text} is not locked"
        for package in packages:
            ((version,),) = [[s.version for s in package.specifier if s.operator == "=="]]
            assert requirement.specifier.contains(version), f"{package} is not {text}"
    if name in {"grpc", "tracing"}:
        # Both are installed over it.
        serving = locked("serving")
        assert {package: lock[package] for package in serving} == serving


def test_the_image_says_what_it_is():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    text = (ROOT / "Dockerfile").read_text()
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text))
    assert labels["title"] == project["name"]
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    assert {"description", "revision"} <= set(labels)


def test_dependencies_are_installed_before_the_sources_are_copied():
    """Otherwise each edit would install all of them again."""
    text = (ROOT / "Dockerfile").read_text()
    copied = [line.split()[1] for line in text.splitlines() if line.startswith("COPY ")]
    assert {"model", "service", "tritserve", "pyproject.toml"} <= set(copied)
    before, _, _ = text.partition("COPY pyproject.toml")
    assert "deploy/lock/$part.txt" in before
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        assert name.startswith("--") or f"!{name}" in ignored, f"{name} does not reach the builder"


def test_compose_bounds_the_service_and_looks_after_it():
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["tritserve"]
    assert service["cpus"]
    assert service["mem_limit"]
    # Images of OCI's format lose that of the Dockerfile.
    text = (ROOT / "Dockerfile").read_text()
    (command,) = re.findall(r"HEALTHCHECK .*\\\n  CMD (.*)", text)
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(command)]


def test_the_example_mounts_the_folder_of_the_model():
    """A mounted file would stay the old one: `pack` puts a new one in its place."""
    text = (ROOT / "docker-compose.yml").read_text()
    lines = re.findall(r"^    # (volumes|environment): (.+)$", text, re.MULTILINE)
    example = {key: yaml.safe_load(value) for key, value in lines}
    ((_, target, mode),) = [volume.split(":") for volume in example["volumes"]]
    assert mode == "ro"
    assert str(Path(example["environment"]["TRITSERVE_MODEL"]).parent) == target


def test_nobody_logs_in_to_grafana():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


def test_series_that_count_are_zero_from_the_start(series, engine):
    assert series["tritserve_refused_connections_total"]["reason"] == set(REFUSALS)
    routes = series["tritserve_request_seconds_count"]["route"]
    assert {"/embed", "/info", "/metrics", "/v2/health", "other"} <= routes
    assert series["tritserve_requests_total"]["route"] == routes

    async def talk(client):
        await client.get("/nothing")
        text = (await client.get("/metrics")).text
        assert 'tritserve_requests_total{route="other",status="404"} 1.0' in text
        assert 'tritserve_request_seconds_count{route="other"} 1.0' in text
        for path in ("live", "ready"):
            assert (await client.get(f"/v2/health/{path}")).status_code == 200
        text = (await client.get("/metrics")).text
        assert 'tritserve_requests_total{route="/v2/health",status="200"} 2.0' in text
        assert 'tritserve_requests_total{route="/v2",status="200"} 0.0' in text
        assert "tritserve_ready 1.0" in text
        assert "tritserve_stuck 0.0" in text
        await client.post("/embed", json={"sequences": [[[0.0] * 3] * 4]})
        text = (await client.get("/metrics")).text
        assert 'tritserve_batch_timesteps_bucket{le="4.0"} 1.0' in text
        assert "tritserve_batch_timesteps_sum 4.0" in text

    ask(engine, talk)
