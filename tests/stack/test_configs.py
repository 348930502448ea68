"""The committed configs, judged by the programs that read them."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stack_local import LocalStack, Ports
from stack_programs import PROMETHEUS_FEATURES

from nodespan.semconv import NAMES

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "collector"
OVERLAYS = sorted(path.stem for path in (CONFIGS / "overlays").glob("*.yaml"))
COMBINATIONS = [chosen for size in range(len(OVERLAYS) + 1) for chosen in itertools.combinations(OVERLAYS, size)]


def run(*command: str | Path, **environment: str) -> str:
    given = {**os.environ, **environment}
    ran = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=given, check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    return ran.stdout


def collector_files(overlays: tuple[str, ...]) -> list[str]:
    return [
        f"--config={path}" for path in ("collector/config.yaml", *(f"collector/overlays/{o}.yaml" for o in overlays))
    ]


@pytest.mark.parametrize("overlays", COMBINATIONS, ids=lambda chosen: "+".join(chosen) or "base")
def test_the_collector_accepts_its_config_with_any_overlays(
    programs: dict[str, Path], overlays: tuple[str, ...]
) -> None:
    run(programs["otelcol"], "validate", *collector_files(overlays))


def test_all_overlays_together_do_not_override_each_other(programs: dict[str, Path]) -> None:
    """Lists are replaced when configs are merged, so two overlays must not set the same one."""
    merged = json.loads(
        run(
            programs["otelcol"],
            "print-config",
            "--format=json",
            "--mode=unredacted",
            *collector_files(tuple(OVERLAYS)),
        )
    )
    pipelines = merged["service"]["pipelines"]
    assert "attributes/drop_content" in pipelines["traces/in"]["processors"]
    assert pipelines["logs/in"]["processors"] == ["memory_limiter", "attributes/drop_content", "redaction/secrets"]
    assert pipelines["logs/in"]["exporters"] == ["otlp_http/loki"]
    assert pipelines["traces/store"]["processors"] == ["tail_sampling"]
    assert pipelines["traces/in"]["exporters"] == ["span_metrics", "forward/to_storage"]


def test_jaeger_accepts_its_config(programs: dict[str, Path]) -> None:
    run(programs["jaeger"], "validate", "--config=collector/jaeger/config.yaml")


def test_prometheus_accepts_its_config_and_rules(programs: dict[str, Path]) -> None:
    assert "2 rule files found" in run(
        programs["promtool"], "check", "config", "--lint=all", "--lint-fatal", "collector/prometheus/prometheus.yml"
    )


SCALED_OUT = {
    "agent": ("otelcol", ["scale-out/agent.yaml"]),
    "gateway": ("otelcol", ["config.yaml", "scale-out/gateway.yaml"]),
    "kafka-out": ("otelcol", ["scale-out/agent.yaml", "scale-out/kafka-out.yaml"]),
    "kafka-in": ("otelcol", ["config.yaml", "scale-out/gateway.yaml", "scale-out/kafka-in.yaml"]),
    "jaeger-opensearch": ("jaeger", ["jaeger/config.yaml", "scale-out/jaeger-opensearch.yaml"]),
    "jaeger-clickhouse": ("jaeger", ["jaeger/config.yaml", "scale-out/jaeger-clickhouse.yaml"]),
}


@pytest.mark.parametrize(("program", "files"), SCALED_OUT.values(), ids=SCALED_OUT)
def test_the_scale_out_configs_are_accepted(programs: dict[str, Path], program: str, files: list[str]) -> None:
    run(programs[program], "validate", *(f"--config=collector/{name}" for name in files))


@pytest.mark.parametrize(
    ("overlay", "variable", "address"),
    [
        ("jaeger-opensearch", "OPENSEARCH_URL", "http://127.0.0.1:1"),
        ("jaeger-clickhouse", "CLICKHOUSE_ADDRESS", "127.0.0.1:1"),
    ],
)
def test_a_scaled_out_jaeger_uses_its_database_and_not_its_disk(
    programs: dict[str, Path], tmp_path: Path, overlay: str, variable: str, address: str
) -> None:
    """Shown by where it stops when there is none: a config can be accepted and still do something else."""
    jaeger = LocalStack(programs, tmp_path, Ports.free()).programs["jaeger"]
    ran = subprocess.run(
        [*jaeger.command, f"--config={CONFIGS / 'scale-out' / overlay}.yaml"],
        env={**jaeger.environment, variable: address, "CLICKHOUSE_PASSWORD": "none"},
        check=False, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert ran.returncode != 0
    assert re.search(r"failed to initialize storage 'shared': .* 127\.0\.0\.1:1: connect", ran.stderr)
    assert not (tmp_path / "jaeger").exists()


def test_prometheus_with_a_remote_store_is_accepted(programs: dict[str, Path], tmp_path: Path) -> None:
    parts = [CONFIGS / "prometheus" / "prometheus.yml", CONFIGS / "scale-out" / "prometheus-remote.yml"]
    (tmp_path / "prometheus.yml").write_text("".join(part.read_text() for part in parts))
    run(programs["promtool"], "check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yml")


def test_every_scale_out_config_is_checked() -> None:
    there = {path.stem for path in (CONFIGS / "scale-out").iterdir()}
    assert there == {*SCALED_OUT, "prometheus-remote", "clickhouse-columns"}  # the last by tests/scale


def test_the_alerts_fire_and_are_silent_as_in_their_tests(programs: dict[str, Path]) -> None:
    run(programs["promtool"], "test", "rules", "collector/prometheus/tests/alerts_test.yml")


def test_every_rule_uses_existing_metrics_and_labels() -> None:
    rules = "".join(path.read_text() for path in (CONFIGS / "prometheus" / "rules").glob("*.yml"))
    asked = set(re.findall(r"(?<![:\w])(?:nodespan|gen_ai|otel_sdk|error)_\w+(?!\w*:)", rules))
    metrics = [name for name in NAMES.values() if name.kind == "metric"]
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    names = {name.prometheus_name + part for name in metrics for part in parts.get(name.type, ("",))}
    labels = {attribute.replace(".", "_") for name in metrics for attribute in name.labels}
    assert asked - names - labels == set()
    assert len(asked & names) > 8


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    rules = set(re.findall(r"- alert: (\w+)", (CONFIGS / "prometheus" / "rules" / "alerts.yml").read_text()))
    tests = (CONFIGS / "prometheus" / "tests" / "alerts_test.yml").read_text()
    fires = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", tests))
    silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests))
    assert fires == silent == rules


def read_compose(programs: dict[str, Path], **environment: str) -> dict[str, Any]:
    """The compose file as docker compose reads it, with all profiles."""
    if "compose-config" in programs:
        return json.loads(run(programs["compose-config"], "docker-compose.yml", **environment))
    return json.loads(run("docker", "compose", "--profile", "*", "config", "--format", "json", **environment))


@pytest.fixture(scope="module")
def compose(programs: dict[str, Path]) -> dict[str, Any]:
    return read_compose(programs)


def test_compose_passes_overlays_to_the_collector(programs: dict[str, Path]) -> None:
    overlays = [f"--config=/etc/otelcol/overlays/{name}.yaml" for name in OVERLAYS]
    for chosen in ([], overlays[:1], overlays):
        compose = read_compose(programs, COLLECTOR_ARGS=" ".join(chosen))
        assert compose["services"]["otel-collector"]["command"] == ["--config=/etc/otelcol/config.yaml", *chosen]


def test_compose_publishes_ports_on_loopback_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert {port["published"] for port in published} >= {"4317", "4318", "16686", "9090", "3000"}


def test_each_service_of_compose_has_limits_and_restarts(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert int(service["mem_limit"]) > 0, name
        once = name == "volume-permissions"
        assert service["restart"] == ("no" if once else "unless-stopped"), name
        assert service["logging"]["options"]["max-size"], name


def test_new_volumes_are_owned_by_the_user_of_their_service(compose: dict[str, Any]) -> None:
    """`up --wait` treats the end of a service as an error unless a running service depends on it."""
    services = compose["services"]
    [owned] = re.findall(r"chown -R 10001:10001 (.+)", services["volume-permissions"]["entrypoint"][-1])
    given = {m["source"] for m in services["volume-permissions"]["volumes"] if m["target"] in owned.split()}
    for name in ("otel-collector", "jaeger"):
        assert services[name]["depends_on"]["volume-permissions"]["condition"] == "service_completed_successfully"
        assert {m["source"] for m in services[name]["volumes"] if m["type"] == "volume"} <= given


def test_compose_mounts_the_committed_configs_read_only(compose: dict[str, Any]) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    bound = [mount for mount in mounts if mount["type"] == "bind"]
    assert bound
    assert [mount["source"] for mount in bound if not mount.get("read_only")] == []
    assert [mount["source"] for mount in bound if not Path(mount["source"]).is_dir()] == []


def test_compose_mounts_the_files_that_its_commands_name(compose: dict[str, Any]) -> None:
    """A path in a command is the mount's target and a committed file below it."""
    for name, service in compose["services"].items():
        targets = {m["target"]: Path(m["source"]) for m in service.get("volumes", []) if m["type"] == "bind"}
        for argument in service["command"] or []:
            _, _, path = argument.partition("=/etc/")
            if path:
                target = f"/etc/{path.partition('/')[0]}"
                assert (targets[target] / path.partition("/")[2]).is_file(), (name, argument)


def test_compose_starts_prometheus_with_the_options_of_local_runs(compose: dict[str, Any]) -> None:
    command = compose["services"]["prometheus"]["command"]
    assert f"--enable-feature={PROMETHEUS_FEATURES}" in command
    assert "--web.enable-otlp-receiver" in command


def test_every_image_is_pinned_in_one_place_only(compose: dict[str, Any]) -> None:
    pins = dict(re.findall(r"^(\w+_IMAGE)=(\S+)$", (ROOT / ".env").read_text(), re.MULTILINE))
    assert {service["image"] for service in compose["services"].values()} == set(pins.values())
    assert [pin for pin in pins.values() if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", pin)] == []
    listed = run("git", "ls-files", "-z").split("\0")
    texts = {name: (ROOT / name).read_text(errors="replace") for name in listed if name and (ROOT / name).is_file()}
    for pin in pins.values():
        repository = pin.partition(":")[0]
        assert [name for name, text in texts.items() if re.search(rf"{re.escape(repository)}:v?\d", text)] == [".env"]
