"""Is somebody told when something is not as it should be, and not twice?"""

import http.server
import json
import threading

import asking
import pytest
import serving
from test_drift import HISTORY, in_alert, make_baseline, risk

RULES = """
repeat = "1h"
group = "0"

[[rule]]
name = "slow"
watch = "latency"
limit = "1us"
windows = ["1m", "1m"]
requests_min = 5
severity = "critical"
"""


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes what it is told, all but the very first time."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(500 if len(self.server.heard) == 1 else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    listening.heard = []
    listening.url = f"http://127.0.0.1:{listening.server_port}"
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield listening
    listening.shutdown()


@pytest.fixture
def models(tmp_path):
    return serving.link_models(tmp_path / "models", serving.SAMPLES / "risk")


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "alerts.toml"
    path.write_text(RULES)
    return path


def alerts(server, *more):
    done = serving.run_binary("alerts", *more, "--ports-file", str(server.ports_file), "--output", "json")
    return done.returncode, json.loads(done.stdout)


def fire(server):
    for _ in range(5):
        assert asking.ask_json(server, risk(HISTORY[:2])).kind is None
    serving.until(lambda: alerts(server)[0] == 1, "the alert")


def metric(server, line):
    return line in server.get("/metrics", port=server.admin_port).body.decode().splitlines()


def test_an_alert_is_told_once_and_a_restart_changes_nothing(tmp_path, models, rules, hook):
    (tmp_path / "token").write_text("a token\n")
    flags = ["--alerts", str(rules), "--alerts-webhook", f"{hook.url}/hook", "--alerts-token-file", str(tmp_path / "token"),
             "--data-dir", str(tmp_path / "data")]
    with serving.Server(models, tmp_path / "a", *flags) as server:
        code, told = alerts(server)
        assert (code, told["alerts"]) == (0, []) and "slow" in told["rules"] and "drift" in told["rules"]
        fire(server)
        assert metric(server, 'tiltyard_alerts_firing{rule="slow"} 1')
        serving.until(lambda: len(hook.heard) == 2, "the second try")
        serving.until(lambda: alerts(server)[1]["webhook"] == {"delivered": 1, "failed": 1}, "its end")
        path, headers, body = hook.heard[1]
        assert path == "/hook" and headers["authorization"] == "Bearer a token"
        assert (body["rule"], body["severity"], body["status"]) == ("slow", "critical", "firing")
        [alert] = body["alerts"]
        assert alert["labels"] == {"endpoint": "risk", "model": "risk", "version": "2", "arm": "champion"}
        assert "the p99 took" in alert["why"] and alert["ended"] is None
        assert hook.heard[0][2]["alerts"][0]["id"] == alert["id"], "whoever hears it twice knows"
        shown = serving.run_binary("alerts", "--ports-file", str(server.ports_file))
        assert shown.returncode == 1 and "slow" in shown.stdout and "firing" in shown.stdout
        assert hook.url not in server.log_text()
    with serving.Server(models, tmp_path / "b", *flags) as server:
        code, told = alerts(server)
        assert code == 1 and told["alerts"][0]["told"], "it still fires, since nobody can say otherwise yet"
        fire(server)
        serving.until(lambda: metric(server, 'tiltyard_alerts_firing{rule="slow"} 1'), "a look at the counters")
        assert told["webhook"] == {"delivered": 0, "failed": 0}
    assert len(hook.heard) == 2, "nothing is told twice"


def test_silences(tmp_path, models, rules, hook):
    with serving.Server(models, tmp_path, "--alerts", str(rules), "--alerts-webhook", hook.url) as server:
        run = lambda *line: serving.run_binary("alerts", *line, "--ports-file", str(server.ports_file))
        assert run("silence", "slow", "--label", "model=risk", "--for", "1h", "--why", "a test").returncode == 0
        wrong = run("silence", "slwo", "--for", "1h")
        assert wrong.returncode == 1 and "expected one of" in wrong.stderr
        for _ in range(5):
            assert asking.ask_json(server, risk(HISTORY[:2])).kind is None
        serving.until(lambda: metric(server, 'tiltyard_alerts_firing{rule="slow"} 1'), "the alert")
        code, told = alerts(server)
        assert code == 0 and told["alerts"][0]["silence"] == 1 and told["silences"][0]["why"] == "a test"
        assert hook.heard == []
        assert run("unsilence", "1").returncode == 0
        serving.until(lambda: len(hook.heard) >= 2, "the message")


def test_drift_is_one_alert_of_a_version_without_any_file(tmp_path, models, hook):
    made = make_baseline(tmp_path, models)
    in_alert(made, "mean_radius")
    flags = ["--alerts-webhook", hook.url, "--alerts-form", "alertmanager"]
    with serving.Server(models, tmp_path, *flags) as server:
        serving.until(lambda: len(hook.heard) >= 2, "the message")
        path, _, [alert] = hook.heard[1]
        assert path == "/api/v2/alerts"
        assert alert["labels"] == {
            "alertname": "drift", "severity": "warning", "job": "tiltyard", "model": "risk", "version": "2"}
        assert "mean_radius" in alert["annotations"]["summary"] and alert["startsAt"] < alert["endsAt"]
        assert alerts(server)[0] == 1


def test_files_that_cannot_be_used_are_told_before_anything_is_served(tmp_path, models):
    path = tmp_path / "alerts.toml"
    path.write_text("[[rule]]\nname = 'slow'\nwatch = 'latency'\n")
    done = serving.run_binary("serve", "--models", str(models), "--alerts", str(path), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1 and "expected a limit" in done.stderr, done
    checked = serving.run_binary("alerts", "check", str(path))
    assert checked.returncode == 2 and "rule 1: \"slow\": expected a limit" in checked.stderr
    path.write_text(RULES)
    assert "7 rules hold: drift, errors" in serving.run_binary("alerts", "check", str(path)).stdout
