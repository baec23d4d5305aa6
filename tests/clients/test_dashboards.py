"""Do the dashboard and the rules ask for figures that there are, and does Prometheus read what the server writes?

promtool and Prometheus are used where they are installed (Debian: `apt-get install prometheus`).
"""

import json
import re
import shutil
import socket
import subprocess
import urllib.parse

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

import asking
import serving

DASHBOARD = serving.ROOT / "deploy" / "grafana" / "tiltyard.json"
RULES = serving.ROOT / "deploy" / "prometheus" / "rules.yml"
TILTYARD = re.compile(r"\btiltyard_[a-z0-9_]+")
QUESTION = {"model": "two_in_two_out", "inputs": [
    asking.tensor("a", np.ones((2, 4), np.float32)), asking.tensor("b", np.ones((2, 4), np.float32))]}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
PROMETHEUS_SECONDS_MAX = 60

promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """A server with prices, a collector that nobody answers for, and some traffic."""
    folder = tmp_path_factory.mktemp("priced")
    models = serving.link_models(folder / "models", serving.FIXTURES / "two_in_two_out")
    with serving.Server(
            models, folder, "--price-cpu-hour", "0.05", "--price-device-hour=2", "--otlp-endpoint",
            "http://127.0.0.1:9", "--trace-sampling", "0", "--triton-metrics") as server:
        for _ in range(20):
            assert asking.ask_raw(server, QUESTION).kind is None
        serving.until(lambda: "tiltyard_rows_total{" in page(server), "what was counted")
        yield server


@pytest.fixture(scope="module")
def storeless(tmp_path_factory):
    """A server whose store does not answer: it has metrics, too."""
    server = serving.Server("http://127.0.0.1:9/models", tmp_path_factory.mktemp("storeless"), wait=False)
    serving.until(lambda: server.ports_file.exists() or server.fail_if_gone(), "the ports file")
    server.admin_port = json.loads(server.ports_file.read_text())["admin"]
    yield server
    server.kill()


def page(server, accept=None):
    answer = server.get("/metrics", port=server.admin_port, headers={"Accept": accept} if accept else None)
    assert answer.status == 200, answer
    return answer.body if accept == PROTOBUF else answer.body.decode()


def names(text):
    """Every name that a query may use, of those on a page."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        found |= {name + end for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return found


def asked_for(text):
    return set(TILTYARD.findall(text))


def test_everything_that_is_asked_for_is_there(priced, storeless):
    there = names(page(priced)) | names(page(storeless))
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    assert len(queries) > 30
    rules = [line for line in RULES.read_text().splitlines() if not line.lstrip().startswith(("#", "description"))]
    for asked in (asked_for("\n".join(queries)), asked_for("\n".join(rules))):
        assert len(asked) > 10
        assert asked <= there, sorted(asked - there)


def test_what_the_page_is_for_is_in_the_docs(priced, storeless):
    told = asked_for((serving.ROOT / "docs" / "telemetry.md").read_text())
    families = {name for text in (page(priced), page(storeless)) for name in re.findall(r"^# TYPE (tiltyard_\S+)", text, re.M)}
    assert families <= told, sorted(families - told)
    code = [serving.ROOT / "server/src/telemetry.rs", *(serving.ROOT / "server/src/telemetry").glob("*.rs")]
    declared = set(re.findall(r'"(tiltyard_[a-z0-9_]+)"', "".join(file.read_text() for file in code)))
    assert families <= declared and told <= declared, sorted(told - declared)


def test_cost_is_by_version_and_grows_with_what_runs_take(priced):
    def figures():
        found = {}
        for family in text_string_to_metric_families(page(priced)):
            for sample in family.samples:
                if sample.labels.get("model") == "two_in_two_out" and sample.labels.get("arm") == "champion":
                    found[sample.name] = sample.value
        return found

    before = serving.until(lambda: (now := figures()).get("tiltyard_rows_total", 0) >= 40 and now, "rows")
    assert before["tiltyard_run_cpu_seconds_total"] > 0
    assert before["tiltyard_spend_total"] == pytest.approx(before["tiltyard_run_cpu_seconds_total"] * 0.05 / 3600)
    assert asking.ask_raw(priced, QUESTION).kind is None
    after = serving.until(lambda: (now := figures())["tiltyard_rows_total"] >= 42 and now, "the next rows")
    assert after["tiltyard_spend_total"] > before["tiltyard_spend_total"]


def test_batches_are_told_by_size(priced):
    sizes = {}
    for family in text_string_to_metric_families(page(priced)):
        if family.name == "tiltyard_batch_rows":
            sizes = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
    runs = sizes["tiltyard_batch_rows_count"]
    assert runs == sizes["+Inf"] > 0 and sizes["tiltyard_batch_rows_sum"] == 2 * runs
    assert (sizes["1"], sizes["2"]) == (0, runs)


def test_openmetrics_names_a_prediction_for_its_time(priced):
    text = page(priced, OPENMETRICS)
    assert text.endswith("# EOF\n")
    examples = [
        sample for family in openmetrics(text) for sample in family.samples
        if sample.name == "tiltyard_request_duration_seconds_bucket" and sample.exemplar]
    assert examples
    for sample in examples:
        assert re.fullmatch(r"[0-9a-f-]{36}:0", sample.exemplar.labels["prediction_id"])
        assert sample.exemplar.value <= float(sample.labels["le"]) and sample.exemplar.timestamp.sec > 1.7e9
    assert "prediction_id" not in page(priced)


def message(data, at=0, end=None):
    """The fields of a protobuf message: (number, value), with numbers as they are and the rest as bytes."""
    end = len(data) if end is None else end

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < end:
        key = varint()
        size = {0: None, 1: 8, 2: -1}[key & 7]
        if size is None:
            yield key >> 3, varint()
            continue
        size = varint() if size < 0 else size
        yield key >> 3, data[at:at + size]
        at += size


def test_native_histograms_are_in_the_messages(priced):
    data = page(priced, PROTOBUF)
    families, at = {}, 0
    while at < len(data):
        size = shift = 0
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        fields = list(message(data[at:at + size]))
        families[dict(fields)[1].decode()] = [value for number, value in fields if number == 4]
        at += size
    metrics = [dict(message(metric))[7] for metric in families["tiltyard_request_duration_seconds"]]
    fields = list(message(metrics[0]))
    told = dict(fields)
    zigzag = lambda value: (value >> 1) ^ -(value & 1)
    assert zigzag(told[5]) == 2, "four buckets to each power of two"
    deltas = [zigzag(value) for number, value in fields if number == 13]
    counts = np.cumsum(deltas)
    assert min(counts) > 0 and sum(counts) + told.get(7, 0) == told[1]
    assert len([number for number, _ in fields if number == 3]) == 19, "the classic buckets are there, too"


@promtool
@pytest.mark.parametrize("accept", [None, "text/plain"])
def test_promtool_reads_the_page(priced, accept):
    checked = subprocess.run(["promtool", "check", "metrics"], input=page(priced, accept), text=True, capture_output=True)
    # Triton's names break what promtool likes in names; ours do not.
    complaints = [line for line in (checked.stdout + checked.stderr).splitlines() if not line.startswith("nv_")]
    assert not complaints, complaints


@promtool
def test_promtool_plays_the_rules():
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        checked = subprocess.run(["promtool", *command], cwd=RULES.parent, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@prometheus
def test_prometheus_scrapes_the_server_and_knows_its_rules(priced, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{RULES}']\n"
        "scrape_configs:\n"
        f"  - {{job_name: tiltyard, static_configs: [{{targets: ['127.0.0.1:{priced.admin_port}']}}]}}\n")
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=native-histograms,exemplar-storage"],
            stdout=log, stderr=log)
    try:
        def query(expression):
            path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
            try:
                answer = priced.get(path, port=port)
            except OSError:
                return []
            return answer.json()["data"]["result"] if answer.status == 200 else []

        def until(expression):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            return serving.until(lambda: query(expression), expression, PROMETHEUS_SECONDS_MAX)

        assert until('up{job="tiltyard"} == 1')
        assert asking.ask_raw(priced, QUESTION).kind is None
        labels = until('tiltyard:requests:rate5m{model="two_in_two_out",arm="champion"}')[0]["metric"]
        assert (labels["endpoint"], labels["version"]) == ("two_in_two_out", "1")
        # A native histogram: no buckets are named, and a quantile is had of it all the same.
        assert until('histogram_quantile(0.5, tiltyard_request_duration_seconds{model="two_in_two_out"}) > 0')
        alerts = priced.get("/api/v1/rules?type=alert", port=port).json()["data"]["groups"]
        health = {rule["name"]: rule["health"] for group in alerts for rule in group["rules"]}
        assert len(health) > 10 and set(health.values()) <= {"ok", "unknown"}
        assert not query('ALERTS{alertname="TiltyardNotReady"}')
        # Every query of the dashboard is understood.
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", "1m")
                expression = re.sub(r"\$(endpoint|model|version)", ".*", expression)
                path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
                answer = priced.get(path, port=port)
                assert answer.status == 200, (target["expr"], answer)
    finally:
        process.terminate()
        process.wait(20)
