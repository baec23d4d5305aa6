"""How soon does nobody get the bad version any more? Rolls a rollout back under full load, again and again.

    python3 benches/rollback.py [ROUNDS]

Needs `onnx` (`tests/clients/requirements.txt`) and a release build of server and benches. A closed loop of 64 keeps the server
busy; six clients beside it note when each of their requests began and ended, and which version answered. Each round starts a
rollout at half and half, sends the command, and looks for the last requests of the challenger after it.
"""

import http.client
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

from inturns import BUILT, Server
from shadow import WIDTH, layers

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
CLIENTS, PAUSE = 6, 0.2
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": [0.5] * WIDTH}]})


class Clients:
    """Ask over kept connections until they are stopped."""

    def __init__(self, port):
        self.answers, self.failures, self.ends = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(port,)) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def ask(self, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not self.ends.is_set():
            began = time.monotonic()
            try:
                connection.request("POST", "/v2/models/m/infer", BODY, {"content-type": "application/json"})
                response = connection.getresponse()
                told = json.loads(response.read())
                if response.status != 200:
                    self.failures.append(told)
                    continue
                self.answers.append((began, time.monotonic(), told["model_version"]))
            except OSError as error:
                self.failures.append(error)
                connection.close()

    def stop(self):
        self.ends.set()
        for thread in self.threads:
            thread.join()


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for version in (1, 2):
            path = folder / "models" / "m" / str(version)
            path.mkdir(parents=True)
            (path / "model.onnx").write_bytes(layers(1, 16))
        (folder / "models" / "m" / "model.toml").write_text('version_policy = "all"\n')
        server = Server(folder / "models", folder / "server")
        load = subprocess.Popen(
            [BUILT / "tiltyard-load", "run", "--target", f"127.0.0.1:{server.ports['grpc']}", "--model", f"m=x:FP32:{WIDTH}",
             "--duration", f"{2 * ROUNDS + 60}s"], stdout=subprocess.DEVNULL)
        try:
            tell(*roll_back(server))
            assert load.poll() is None, "the load ended too early"
        finally:
            load.kill()
            server.signal(signal.SIGKILL)


def roll_back(server):
    time.sleep(2)
    clients, commands = Clients(server.ports["http"]), []
    admin = http.client.HTTPConnection("127.0.0.1", server.ports["admin"], timeout=10)
    for _ in range(ROUNDS):
        server.run("rollout", "start", "m", "--challenger", "2", "--steps", "50%/24h")
        while server.admin("/admin/endpoints/m/rollout")["share"] != 500000:
            time.sleep(0.02)
        time.sleep(PAUSE)
        began = time.monotonic()
        admin.request("POST", "/admin/endpoints/m/rollback", b"")
        response = admin.getresponse()
        response.read()
        assert response.status == 200, response.status
        ended = time.monotonic()
        time.sleep(PAUSE)
        commands.append((began, ended, time.monotonic()))
    clients.stop()
    return clients, commands


def tell(clients, commands):
    begun, answered, took, had = [], [], [], 0
    for sent, ended, until in commands:
        of_bad = [(b, e) for b, e, version in clients.answers if version == "2" and sent - PAUSE <= e and b <= until]
        had += bool(of_bad)
        begun.append(max([b for b, _ in of_bad] + [sent]) - sent)
        answered.append(max([e for _, e in of_bad] + [sent]) - sent)
        took.append(ended - sent)
    print(f"{len(commands)} rollbacks under a closed loop of 64, {len(clients.answers)} requests of {CLIENTS} clients, "
          f"{len(clients.failures)} failed; the bad version answered before {had} of them")
    for name, times in (("the command", took), ("last request begun that it answered", begun), ("last answer", answered)):
        times = sorted(1e3 * seconds for seconds in times)
        at = [times[min(int(len(times) * part), len(times) - 1)] for part in (0.5, 0.99)]
        print(f"{name}: median {at[0]:.1f} ms, p99 {at[1]:.1f} ms, most {times[-1]:.1f} ms after the command was sent")


if __name__ == "__main__":
    main()
