"""How does a test lock the doors of a server, and ask one whose doors are locked?"""

import http.client
import json
import os
import ssl
import subprocess

import grpc
import trustme

import serving


class Authority:
    """One that signs certificates, and the files that servers and clients need of it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = trustme.CA()
        self.path = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.path)

    def issue(self, name, *identities, common_name=None):
        """A certificate and its key, as files."""
        issued = self.authority.issue_cert(*identities, common_name=common_name)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


def tls_flags(pair):
    return ["--tls-cert", str(pair[0]), "--tls-key", str(pair[1])]


class SecureServer(serving.Server):
    """A server whose ports speak TLS. `ca` is whom to believe, `shown` a certificate and key to show, `token` who asks."""

    def __init__(self, models, folder, *flags, ca, shown=None, token=None, **more):
        self.ca, self.shown, self.token = ca, shown, token
        super().__init__(models, folder, *flags, **more)

    def context(self, shown=None):
        context = ssl.create_default_context(cafile=str(self.ca))
        if shown or self.shown:
            context.load_cert_chain(*map(str, shown or self.shown))
        return context

    def ask(self, method, path, body=None, headers=None, port=None, timeout=serving.ANSWER_SECONDS_MAX, shown=None):
        headers = dict(headers or {})
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPSConnection(
            "localhost", port or self.http_port, timeout=timeout, context=self.context(shown))
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return serving.Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def channel(self, port=None, options=(), shown=None):
        shown = shown or self.shown
        key, chain = (shown[1].read_bytes(), shown[0].read_bytes()) if shown else (None, None)
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain)
        address = f"localhost:{port or self.grpc_port}"
        channel = grpc.secure_channel(address, credentials, serving.CHANNEL_OPTIONS + list(options))
        self.channels.append(channel)
        return channel


def command(*arguments, variables=None):
    """Runs the command line as somebody would: exit code, standard output, standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
    done = subprocess.run(
        [str(serving.BINARY), *map(str, arguments)], capture_output=True, text=True,
        env=environment | (variables or {}), timeout=serving.ANSWER_SECONDS_MAX)
    return done.returncode, done.stdout, done.stderr


def new_token(name, *roles):
    """A token and its line of the access file, as the command line makes them."""
    code, token, line = command("token", "new", name, *roles)
    assert code == 0, line
    return token.strip(), line
