"""Does Triton's own load generator run against the server? Its wheel wants glibc 2.38, so not every machine can say.

It is no requirement; `pip install perf-analyzer` into target/venv to have this run.
"""

import shutil
import subprocess

import pytest


@pytest.fixture(scope="module")
def perf_analyzer():
    found = shutil.which("perf_analyzer")
    if not found:
        pytest.skip("perf_analyzer is not installed")
    tried = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60)
    if tried.returncode != 0:
        pytest.skip(f"perf_analyzer does not run here: {(tried.stdout + tried.stderr)[-300:]}")
    return found


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model, rows, extra", [
    ("risk", 1, []), ("digits", 4, []), ("language", 2, ["--shape", "tokens:16", "--input-data", "zero"])])
def test_measures(server, perf_analyzer, protocol, model, rows, extra):
    address = {"http": server.http_address, "grpc": server.grpc_address}[protocol]
    command = [
        perf_analyzer, "-m", model, "-b", str(rows), "-i", protocol, "-u", address, "--measurement-mode",
        "count_windows", "--measurement-request-count", "50", "--stability-percentage", "999", *extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput" in done.stdout
