"""How does a parent keep ports open while servers come and go? It opens the sockets and hands them over, as systemd does."""

import fcntl
import os
import pathlib
import socket
import subprocess
import sys

import serving

# Descriptors beyond all that the servers are handed, so that putting those in place overwrites none of them.
FIRST_HELD = 100
# The shell puts the sockets where systemd does, from 3 on, and becomes the server: `$$` is its process id.
HAND_OVER = """
count=$1; shift
for ((n = 0; n < count; n++)); do
    eval "exec $((3 + n))<&$((%d + n)) $((%d + n))<&-"
done
export LISTEN_PID=$$
exec "$@"
""" % (FIRST_HELD, FIRST_HELD)


class Ports:
    """Listening sockets on free ports, by name, and the servers that were started on them."""

    def __init__(self, names):
        self.names = names
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
        self.held = [fcntl.fcntl(held.fileno(), fcntl.F_DUPFD, FIRST_HELD + n) for n, held in enumerate(self.sockets)]
        assert self.held == list(range(FIRST_HELD, FIRST_HELD + len(names)))
        for name, held in zip(names, self.sockets):
            setattr(self, name, held.getsockname()[1])
        self.processes = []

    def start(self, models, folder, *flags, wrap=lambda command: command, log=None, wait=True, variables=None):
        """A server on the sockets; `folder` is for its data and its log. Waits until it says that it is ready."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        log = pathlib.Path(log or folder / "server.log")
        command = wrap([str(serving.BINARY), "serve", "--models", str(models), "--data-dir", str(folder), *flags])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
        environment |= {
            "LISTEN_FDS": str(len(self.names)), "LISTEN_FDNAMES": ":".join(self.names), "VIRTUAL_ENV": sys.prefix,
        } | (variables or {})
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", HAND_OVER, "bash", str(len(self.names)), *command], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, env=environment, pass_fds=self.held)
        self.processes.append(process)
        if wait:
            serving.until(
                lambda: is_announced(log, process), "the new server", serving.START_SECONDS_MAX)
        return process

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for held in self.held:
            os.close(held)
        for held in self.sockets:
            held.close()


def is_announced(log, process):
    """Whether a server has said that it is ready: nobody can ask it alone where others listen on the same sockets."""
    text = log.read_text(errors="replace")
    assert process.poll() is None, f"the server ended with {process.returncode}:\n{text[-4000:]}"
    return "is ready" in text
