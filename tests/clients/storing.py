"""Which store do the tests have? One in this process that speaks S3 and the XML interface of Google Cloud Storage, Azure Blob
Storage, WebDAV and plain HTTP, each as far as reading goes; S3 takes objects too.

It counts what is asked, and can be told to be down, slow, to cut connections, and to change an object at the wrong moment.
"""

import email.utils
import hashlib
import http.server
import json
import pathlib
import threading
import time
import urllib.parse
import xml.sax.saxutils

BUCKET, ACCOUNT = "bucket", "devstoreaccount1"
KEY_ID, SECRET, SESSION = "AKIAKEYOFTESTS", "secret-of-tests-0123456789", "session-of-tests-0123456789"
TOKEN = "token-of-tests-0123456789"
CHUNK = 64 * 1024


class Request:
    """One request that was answered: its key is what is behind the bucket, and `sent` how many bytes of a body went out."""

    def __init__(self, method, key, headers):
        self.method, self.key, self.headers = method, key, {name.lower(): value for name, value in headers.items()}
        self.status, self.sent = None, 0

    @property
    def start(self):
        """The first byte that was asked for."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])

    def __repr__(self):
        return f"<{self.method} {self.key} {self.headers.get('range')} {self.status} {self.sent}>"


class Store:
    """Objects by key. Started on a free port, or again on the one it had."""

    def __init__(self, tls=None):
        self.objects, self.changed, self.requests = {}, {}, []
        self.page_size = 1000
        self.fails = None       # a status that answers everything
        self.cuts = {}          # by key: after how many bytes of a body the connection is closed, once each
        self.holds = {}         # by key: (bytes, event) to wait for once that many are sent
        self.before_get = None  # called with a key before it is looked up
        self.ranges, self.dav = True, False
        self.lock = threading.Lock()
        self.tls, self.port, self.server = tls, 0, None
        self.start()

    def start(self):
        store = self

        class Bound(Handler):
            pass

        Bound.store = store
        http.server.ThreadingHTTPServer.allow_reuse_address = True
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Bound)
        self.server.daemon_threads = True
        if self.tls:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """Refuses connections from now on."""
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _, event in self.holds.values():
            event.set()
        self.stop()

    @property
    def address(self):
        return f"{'https' if self.tls else 'http'}://{'localhost' if self.tls else '127.0.0.1'}:{self.port}"

    @property
    def variables(self):
        """What the server is told of it."""
        return {
            "AWS_ENDPOINT_URL": self.address, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION,
        }

    @property
    def google(self):
        """What a server is told of it that takes it for Google's."""
        key = {"gcs_base_url": self.address, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key), "GOOGLE_ALLOW_HTTP": "true"}

    @property
    def azure(self):
        """What a server is told of it that takes it for Azure's, or for what Azure gives developers to try things with."""
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": self.address}

    def put(self, key, content):
        self.put_all({key: content})

    def put_all(self, contents):
        """Several at once: no listing has some of them only."""
        with self.lock:
            for key, content in contents.items():
                self.objects[key] = content
                self.changed[key] = time.time()

    def delete(self, prefix):
        with self.lock:
            for key in [key for key in self.objects if key.startswith(prefix)]:
                del self.objects[key]

    def gets(self, key):
        """Requests for an object's bytes."""
        with self.lock:
            return [request for request in self.requests if request.method == "GET" and request.key == key]

    def listings(self):
        with self.lock:
            return [request for request in self.requests if request.key is None]

    def tag(self, key):
        return f'"{hashlib.md5(self.objects[key]).hexdigest()}"'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = None

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.settimeout(30)

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def do_PROPFIND(self):
        self.answer()

    def do_PUT(self):
        """Takes an object, where nothing is in its place if that is asked."""
        content = self.rfile.read(int(self.headers["content-length"]))
        key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
        request = Request("PUT", key, self.headers)
        with self.store.lock:
            is_taken = self.headers.get("if-none-match") == "*" and key in self.store.objects
        if self.store.fails or is_taken:
            self.reply(request, self.store.fails or 412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self.store.put(key, content)
            self.reply(request, 200, b"", {"ETag": self.store.tag(key)})
        with self.store.lock:
            self.store.requests.append(request)

    def answer(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        path = urllib.parse.unquote(url.path).removeprefix("/").removeprefix(f"{ACCOUNT}/")
        bucket, _, key = path.partition("/")
        listing = self.command == "PROPFIND" or (bucket == BUCKET and ("list-type" in query or "comp" in query))
        request = Request(self.command, None if listing else (key if bucket == BUCKET else path), self.headers)
        if self.store.before_get and not listing:
            self.store.before_get(request.key)
        try:
            if self.store.fails:
                self.reply(request, self.store.fails, b"<Error><Code>SlowDown</Code></Error>")
            elif self.command == "PROPFIND":
                self.propfind(request, path)
            elif listing:
                self.list(request, query)
            else:
                self.object(request)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        finally:
            with self.store.lock:
                self.store.requests.append(request)

    def reply(self, request, status, body, headers=()):
        request.status = status
        self.send_response(status)
        headers = dict(headers)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.store.cuts.pop(request.key, None) if request.key in self.store.cuts else None
        hold, event = self.store.holds.get(request.key, (None, None))
        for at in range(0, len(body), CHUNK):
            chunk = body[at:at + CHUNK]
            if cut is not None and at + len(chunk) > cut:
                chunk = chunk[: cut - at]
            self.wfile.write(chunk)
            request.sent += len(chunk)
            if cut is not None and request.sent >= cut:
                self.wfile.flush()
                self.close_connection = True
                return
            if hold is not None and request.sent >= hold:
                self.wfile.flush()
                event.wait(30)

    def list(self, request, query):
        with self.store.lock:
            objects = {key: (content, self.store.changed[key]) for key, content in self.store.objects.items()}
        after = query.get("continuation-token", query.get("marker", ""))
        keys = sorted(key for key in objects if key.startswith(query.get("prefix", "")) and key > after)
        page, more = keys[: self.store.page_size], len(keys) > self.store.page_size
        if "comp" in query:
            return self.blobs(request, {key: objects[key] for key in page}, page[-1] if more else "")
        contents = "".join(
            f"<Contents><Key>{xml.sax.saxutils.escape(key)}</Key><LastModified>{stamp(objects[key][1])}</LastModified>"
            f"<ETag>&quot;{hashlib.md5(objects[key][0]).hexdigest()}&quot;</ETag><Size>{len(objects[key][0])}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in page)
        token = f"<NextContinuationToken>{xml.sax.saxutils.escape(page[-1])}</NextContinuationToken>" if more else ""
        self.reply(
            request, 200,
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{BUCKET}</Name>'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>".encode())

    def blobs(self, request, objects, marker):
        """A page of a listing as Azure has it: its tags have no quotes."""
        entries = "".join(
            f"<Blob><Name>{xml.sax.saxutils.escape(key)}</Name><Properties>"
            f"<Last-Modified>{email.utils.formatdate(changed, usegmt=True)}</Last-Modified>"
            f"<Etag>{hashlib.md5(content).hexdigest()}</Etag><Content-Length>{len(content)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
            for key, (content, changed) in objects.items())
        self.reply(
            request, 200,
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{entries}</Blobs>'
            f"<NextMarker>{xml.sax.saxutils.escape(marker)}</NextMarker></EnumerationResults>".encode())

    def propfind(self, request, path):
        if not self.store.dav:
            return self.reply(request, 405, b"")
        with self.store.lock:
            objects = {key: (content, self.store.changed[key]) for key, content in self.store.objects.items()}
        entries = "".join(
            f"<D:response><D:href>/{urllib.parse.quote(key)}</D:href><D:propstat><D:prop>"
            f"<D:getlastmodified>{email.utils.formatdate(changed, usegmt=True)}</D:getlastmodified>"
            f"<D:getcontentlength>{len(content)}</D:getcontentlength><D:resourcetype/>"
            f"<D:getetag>\"{hashlib.md5(content).hexdigest()}\"</D:getetag></D:prop>"
            "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
            for key, (content, changed) in sorted(objects.items()) if key.startswith(path.rstrip("/") + "/"))
        self.reply(
            request, 207,
            f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{entries}</D:multistatus>'.encode(),
            {"Content-Type": "application/xml"})

    def object(self, request):
        with self.store.lock:
            content = self.store.objects.get(request.key)
            changed = self.store.changed.get(request.key, 0)
        if content is None:
            return self.reply(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag, "Last-Modified": email.utils.formatdate(changed, usegmt=True)}
        if request.headers.get("if-match", tag) != tag:
            return self.reply(request, 412, b"<Error><Code>PreconditionFailed</Code></Error>")
        if request.headers.get("if-none-match") == tag:
            return self.reply(request, 304, b"", headers)
        if "range" not in request.headers or not self.store.ranges:
            return self.reply(request, 200, content, headers | {"Content-Length": str(len(content))})
        _, end = request.headers["range"].removeprefix("bytes=").split("-")
        end = min(int(end) + 1, len(content)) if end else len(content)
        headers["Content-Range"] = f"bytes {request.start}-{end - 1}/{len(content)}"
        return self.reply(request, 206, content[request.start:end], headers)


def stamp(moment):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))


def sums(objects, prefix):
    """A list of objects below a prefix, as `sha256sum` writes it."""
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  ./{key.removeprefix(prefix)}\n"
        for key, content in sorted(objects.items()) if key.startswith(prefix) and not key.endswith("SHA256SUMS")]
    return "".join(lines).encode()


def cached(server, name):
    """Where a server keeps copies of the store whose folder has this name."""
    found = list((server.folder / "data" / "stores").glob(f"*/{name}"))
    assert len(found) == 1, found
    return pathlib.Path(found[0])
