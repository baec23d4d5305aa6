"""How long does a scrape of 1,000 series take, and how many are there? Prints a table.

    python3 benches/scrape.py [MODELS] [ROUNDS]

The server has links to one small sample model under as many names, on the engine that is always there. Each round fetches
the page once in each form over one connection; the processor's time is that of the whole process over all rounds, the asking
of it included.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import statistics
import sys
import tempfile
import time

from inturns import ROOT, Server

MODELS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 200
FORMS = {
    "text": "text/plain",
    "OpenMetrics": "application/openmetrics-text; version=1.0.0",
    "messages": "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
}
SAMPLE = ROOT / "models" / "digits"


def ask_all(port):
    """Every model answers something, so that its histograms are not empty."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]})
    for number in range(MODELS):
        for _ in range(20):
            connection.request("POST", f"/v2/models/model-{number}/infer", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    with tempfile.TemporaryDirectory() as folder:
        models = pathlib.Path(folder) / "models"
        models.mkdir()
        for number in range(MODELS):
            (models / f"model-{number}").symlink_to(SAMPLE)
        server = Server(models, pathlib.Path(folder) / "server", flags=["--engines", "tract"])
        try:
            ask_all(server.ports["http"])
            time.sleep(3)  # costs are measured in idle time
            connection = http.client.HTTPConnection("127.0.0.1", server.ports["admin"])

            def fetch(accept):
                began = time.perf_counter()
                connection.request("GET", "/metrics", headers={"Accept": accept})
                body = connection.getresponse().read()
                return (time.perf_counter() - began) * 1e3, body

            series = len(re.findall(rb"^[a-z]", fetch(FORMS["text"])[1], re.M))
            print(f"{MODELS} models, {series} series, {ROUNDS} rounds")
            print(f"{'form':<12} {'median':>9} {'p99':>9} {'CPU':>9} {'bytes':>9}")
            for form, accept in FORMS.items():
                before = cpu_seconds(server.process.pid)
                times, sizes = zip(*((took, len(body)) for took, body in (fetch(accept) for _ in range(ROUNDS))))
                cpu = (cpu_seconds(server.process.pid) - before) / ROUNDS * 1e3
                slow = statistics.quantiles(times, n=100)[98]
                print(f"{form:<12} {statistics.median(times):>6.2f} ms {slow:>6.2f} ms {cpu:>6.2f} ms {sizes[-1]:>9}")
        finally:
            server.signal(signal.SIGTERM)
            server.process.wait(20)


main()
