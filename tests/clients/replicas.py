"""How does a test have three replicas of one fleet behind a proxy, with a Postgres that they share?"""

import contextlib
import http.client
import http.server
import itertools
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

import serving
from rolling import free_ports

REPLICAS = 3
WITHOUT = "TILTYARD_WITHOUT_POSTGRES"


def programs():
    """Where the newest Postgres of the system's packages is."""
    packaged = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = packaged or [pathlib.Path(path).parent for path in [shutil.which("initdb")] if path]
    if not found:
        assert WITHOUT in os.environ, f"no Postgres: apt-get install postgresql, or set {WITHOUT}"
        pytest.skip("there is no Postgres")
    return found[-1]


class Postgres:
    """A database on a Unix socket in a folder of its own. As root, it is another user's: Postgres refuses to be root."""

    def __init__(self):
        self.bin = programs()
        self.folder = folder = pathlib.Path(tempfile.mkdtemp(prefix="tiltyard-postgres-"))
        folder.chmod(0o755)
        self.as_user = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self.as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.run("initdb", "-A", "trust", "-U", "tiltyard", "-E", "UTF8", "--locale", "C", "--no-sync", "-D", folder / "data")
        self.start()

    def run(self, program, *arguments):
        made = subprocess.run(
            [self.bin / program, *map(str, arguments)], capture_output=True, text=True, cwd=self.folder, timeout=60,
            **self.as_user)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    def start(self):
        log = open(self.folder / "postgres.log", "ab")
        self.process = subprocess.Popen(
            [self.bin / "postgres", "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses=", "-c", "fsync=off",
             "-c", "unix_socket_permissions=0777"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, **self.as_user)
        log.close()
        serving.until(lambda: (self.folder / ".s.PGSQL.5432").exists() and self.answers(), "Postgres", 30)

    def answers(self):
        line = [self.bin / "pg_isready", "-q", "-h", self.folder]
        return subprocess.run(line, timeout=10).returncode == 0

    @property
    def url(self):
        return f"postgres://tiltyard@localhost/postgres?host={self.folder}"

    def ask(self, sql):
        """The rows, a line for each."""
        return self.run("psql", "-h", self.folder, "-U", "tiltyard", "-d", "postgres", "-Atqc", sql).splitlines()

    def all_processes(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def signal(self, what):
        for process in self.all_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, what)

    @contextlib.contextmanager
    def standing_still(self):
        """It is there, and says nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def slow(self, seconds):
        """Somebody has the log's tables for so long: whoever wants them waits."""
        sql = f"BEGIN; LOCK TABLE tiltyard_log, tiltyard_head; SELECT pg_sleep({seconds}); COMMIT"
        line = [self.bin / "psql", "-h", self.folder, "-U", "tiltyard", "-d", "postgres", "-qc", sql]
        with subprocess.Popen(line, stdout=subprocess.DEVNULL) as busy:
            yield
            assert busy.wait(60) == 0

    def kill(self):
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def end(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Replica:
    """A server that comes back where it was."""

    def __init__(self, models, folder, url, name, *flags, variables=None):
        self.models, self.folder, self.name, self.variables = models, folder / name, name, variables
        self.ports = free_ports(2)
        self.flags = ["--registry", url, "--replica", name, "--poll-interval", "100ms", *flags]
        self.start()

    def start(self):
        # As those do that ask whether it is ready, the proxy gives it nothing meanwhile.
        self.is_ready = False
        (self.folder / "ports.json").unlink(missing_ok=True)
        http_port, grpc_port = map(str, self.ports)
        self.server = serving.Server(
            self.models, self.folder, "--http-port", http_port, "--grpc-port", grpc_port, *self.flags, own_ports=True,
            variables=self.variables)
        self.is_ready = True

    def kill(self):
        """As a machine that loses its power."""
        self.server.kill()

    @property
    def lives(self):
        return self.server.process.poll() is None

    def fleet(self):
        return self.server.get("/admin/status", port=self.server.admin_port).json()["fleet"]


class Proxy(http.server.ThreadingHTTPServer):
    """Gives each request to the next replica, and to another where that one is gone."""

    daemon_threads = True

    def __init__(self, replicas):
        super().__init__(("127.0.0.1", 0), Handler)
        self.turns, self.lock = itertools.cycle(replicas), threading.Lock()
        self.served = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.served.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def next(self):
        with self.lock:
            return next(self.turns)

    def end(self):
        self.shutdown()
        self.served.join()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.connections = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        for _ in range(3 * REPLICAS):
            replica = self.server.next()
            if not replica.is_ready:
                continue
            try:
                answer, content = self.forward(replica, body)
            except (OSError, http.client.HTTPException):
                self.connections.pop(replica, None)
                continue
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.send_header("x-replica", replica.name)
            self.end_headers()
            self.wfile.write(content)
            return
        self.send_error(502)

    def forward(self, replica, body):
        if replica not in self.connections:
            self.connections[replica] = http.client.HTTPConnection("127.0.0.1", replica.ports[0], timeout=30)
        connection = self.connections[replica]
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        connection.request("POST", self.path, body, headers)
        answer = connection.getresponse()
        return answer, answer.read()

    def finish(self):
        for connection in self.connections.values():
            connection.close()
        super().finish()

    def log_message(self, *_):
        pass


class Fleet:
    """A database, replicas and the proxy before them."""

    def __init__(self, models, folder, *flags, variables=None):
        self.folder, self.replicas, self.proxy = folder, [], None
        self.postgres = Postgres()
        try:
            for number in range(1, REPLICAS + 1):
                self.replicas.append(
                    Replica(models, folder, self.postgres.url, f"r{number}", *flags, variables=variables))
            self.proxy = Proxy(self.replicas)
        except BaseException:
            self.end()
            raise

    def end(self):
        if self.proxy:
            self.proxy.end()
        for replica in self.replicas:
            replica.kill()
        self.postgres.end()

    @property
    def living(self):
        return [replica for replica in self.replicas if replica.lives]

    def leader(self):
        """The replica that leads, once one does and the others know of it."""
        def found():
            return [replica for replica in self.living if replica.fleet()["leads"]]
        return serving.until(found, "a replica that leads", 15)[0]

    def follower(self):
        leader = self.leader()
        return next(replica for replica in self.living if replica is not leader)

    def entries(self):
        """The log, as it was written."""
        return self.postgres.ask("SELECT line FROM tiltyard_log ORDER BY seq")

    def decisions(self, rollout):
        """What was decided, in order, waiting aside."""
        entries = [json.loads(line) for line in self.entries()]
        told = [entry["data"] for entry in entries if entry["kind"] == "rollout.event"]
        found = [one["verdict"]["decision"] for one in told if one["rollout"] == rollout]
        return [decision for decision in found if decision != "not_yet"]

    def export(self):
        """The log as a folder, as docs/replicas.md says."""
        log = self.folder / f"export-{time.monotonic_ns()}"
        log.mkdir()
        (log / f"{1:020}.jsonl").write_text("".join(line + "\n" for line in self.entries()))
        return log

    def know(self, endpoint="m"):
        """Waits until each knows of the endpoint's rollout, and gives how long that took."""
        path = f"/admin/endpoints/{endpoint}/rollout"
        return self.each_reaches(lambda server: server.get(path, port=server.admin_port).status == 200, "a rollout")

    def each_reaches(self, check, what, seconds=15):
        """Waits until it is so on each replica, and gives how long that took."""
        began = time.monotonic()
        for replica in self.living:
            serving.until(lambda: check(replica.server), f"{what} on {replica.name}", seconds)
        return time.monotonic() - began
