"""Is what a store has served, as it changes, and whatever the store does?

Each test has a store of its own (`storing.py`) and a server that follows it. Models answer a multiple of what they are given,
so that the answer tells which bytes are served.
"""

import functools
import hashlib
import http.server
import json
import os
import signal
import ssl
import subprocess
import threading

import pytest
import trustme

import serving
import storing
from test_repository import becomes, factor_of, golden, times

URL = f"s3://{storing.BUCKET}/models"
QUICK = ["--store-interval", "100ms", "--poll-interval", "100ms"]


@pytest.fixture
def store():
    with storing.Store() as made:
        yield made


def follow(store, folder, *flags, url=URL, variables=None, **more):
    return serving.Server(url, folder, *QUICK, *flags, variables=store.variables | (variables or {}), **more)


def version(number, factor, model="m"):
    return {f"models/{model}/{number}/model.onnx": times(factor)}


def status(server):
    return server.get("/admin/status", port=server.admin_port).json()


def metric(server, name):
    lines = server.get("/metrics", port=server.admin_port).body.decode().splitlines()
    found = [line for line in lines if line.startswith(name) and line[len(name)] in " {"]
    return [float(line.rsplit(" ", 1)[1]) for line in found]


def rounds(store, count=3):
    """Waits until the store was asked a few times more."""
    before = len(store.listings())
    serving.until(lambda: len(store.listings()) >= before + count, "the store to be asked again")


def command(*arguments, store=None, **more):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
    environment |= store.variables if store else {}
    return subprocess.run(
        [serving.BINARY, *arguments], capture_output=True, text=True, env=environment, timeout=60, **more)


def test_versions_come_change_and_go(store, tmp_path):
    store.put_all(version(1, 2) | {"models/README.md": b"hello", "other/m/9/model.onnx": times(9)})
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
        store.put_all(version(2, 3))
        becomes(server, 3)
        store.put_all(version(2, 5))
        becomes(server, 5)
        assert factor_of(server, "m", "1") == 2
        store.put_all(version(7, 4, "late"))
        becomes(server, 4, "late")
        store.delete("models/m/2/")
        becomes(server, 2)
        store.delete("models/late/")
        serving.until(lambda: factor_of(server, "late") is None, "the model to leave")
        rounds(store)
        assert len(store.gets("models/m/1/model.onnx")) == 1, "what did not change is fetched once"
        assert not store.gets("models/README.md") and not store.gets("other/m/9/model.onnx")
        assert not [request for request in store.requests if "authorization" not in request.headers]
        told = status(server)["store"]
        assert told["url"] == URL and told["objects"] == 1 and told["trouble"] is None
        assert metric(server, "tiltyard_store_fetched_objects_total") == [4]
        assert metric(server, "tiltyard_store_objects") == [1]
        assert metric(server, "tiltyard_store_failures_total") == [0, 0]
        shown = command("status", "--admin", f"http://127.0.0.1:{server.admin_port}")
        assert f"Models come from {URL}: 1 objects, as it had them" in shown.stdout, shown


@pytest.mark.parametrize("scheme, cloud", [("gs", "google"), ("az", "azure")])
def test_other_clouds_are_followed_as_well(store, tmp_path, scheme, cloud):
    extra, content = "models/m/1/extra.bin", os.urandom(2 << 20)
    store.page_size = 10
    store.put_all(version(1, 2) | {extra: content} | {f"models/notes/{number}": b"x" for number in range(25)})
    store.cuts[extra] = 1 << 20
    url = f"{scheme}://{storing.BUCKET}/models"
    with serving.Server(url, tmp_path, *QUICK, variables=getattr(store, cloud)) as server:
        assert factor_of(server, "m") == 2
        assert len(store.listings()) >= 3, "the listing has several pages"
        assert [request.status for request in store.gets(extra)] == [200, 206], "what was cut is gone on with"
        assert (storing.cached(server, "models") / "m" / "1" / "extra.bin").read_bytes() == content
        store.put_all(version(2, 3))
        becomes(server, 3)
        store.put_all(version(2, 5))
        becomes(server, 5)
        store.fails = 503
        serving.until(lambda: status(server)["store"]["trouble"], "trouble with the store to be told", 60)
        assert factor_of(server, "m") == 5, "what is there goes on answering"
        store.fails = None
        store.delete("models/m/2/")
        becomes(server, 2)
        assert len(store.gets("models/m/1/model.onnx")) == 1, "what did not change is fetched once"


def test_settings_decide_which_versions_are_fetched(store, tmp_path):
    store.put_all({key: content for number in range(1, 6) for key, content in version(number, number).items()})
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 5
        assert not store.gets("models/m/3/model.onnx"), "nobody wants it"
        store.put("models/m/model.toml", b'version_policy = "2"\n')
        becomes(server, 2)
        store.put("models/m/model.toml", b'version_policy = "2,3"\n')
        becomes(server, 3)
        store.delete("models/m/model.toml")
        becomes(server, 5)


def test_a_single_model(store, tmp_path):
    store.put("models/churn.onnx", times(2))
    with follow(store, tmp_path / "file", url=f"s3://{storing.BUCKET}/models/churn.onnx") as server:
        assert factor_of(server, "churn", "1") == 2
        store.put("models/churn.onnx", times(3))
        becomes(server, 3, "churn")
    with follow(store, tmp_path / "folder") as server:
        assert factor_of(server, "models", "1") == 3


def test_a_whole_bucket_over_many_pages(store, tmp_path):
    store.page_size = 100
    store.put_all({f"m/notes/{number}": b"x" for number in range(1500)})
    store.put_all({"zz/1/model.onnx": times(6), "m/1/model.onnx": times(2)})
    with follow(store, tmp_path, url=f"s3://{storing.BUCKET}") as server:
        assert (factor_of(server, "m"), factor_of(server, "zz")) == (2, 6)
        assert len(store.listings()) >= 16


def test_a_cut_connection_is_gone_on_with(store, tmp_path):
    extra = "models/m/1/extra.bin"
    content = os.urandom(4 << 20)
    store.put_all(version(1, 2) | {extra: content})
    store.cuts[extra] = 3 << 20
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
        first, *more = store.gets(extra)
        assert (first.start, first.sent) == (0, 3 << 20)
        assert len(more) == 1 and 0 < more[0].start <= 3 << 20 and more[0].status == 206, more
        assert more[0].headers["if-match"] == store.tag(extra)
        assert (storing.cached(server, "models") / "m" / "1" / "extra.bin").read_bytes() == content


def test_a_killed_server_goes_on_where_it_was(store, tmp_path):
    extra = "models/m/1/extra.bin"
    store.put_all(version(1, 2) | {extra: os.urandom(24 << 20)})
    event = threading.Event()
    store.holds[extra] = (20 << 20, event)
    server = follow(store, tmp_path, wait=False)
    try:
        parts = tmp_path / "data" / "stores"
        noted = lambda: [note for note in parts.glob("*/parts/*.note") if json.loads(note.read_text())["received"] >= 16 << 20]
        serving.until(noted, "two thirds to be safe")
        serving.until(server.ports_file.exists, "the ports")
        server.http_port = json.loads(server.ports_file.read_text())["http"]
        assert not server.is_ready(), "half of a version is none"
        server.process.send_signal(signal.SIGKILL)
    finally:
        server.kill()
    event.set()
    store.holds.clear()
    server.ports_file.unlink()
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
        assert store.gets(extra)[-1].start >= 16 << 20


def test_a_server_without_ranges_is_asked_from_the_start(store, tmp_path):
    store.ranges = False
    extra = "models/m/1/extra.bin"
    content = os.urandom(1 << 20)
    store.put_all(version(1, 2) | {extra: content})
    store.cuts[extra] = 300_000
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
        assert (storing.cached(server, "models") / "m" / "1" / "extra.bin").read_bytes() == content


def test_a_version_that_changes_on_the_way_is_never_mixed(store, tmp_path):
    """Its golden example is fetched before, and its model after the change: together they would not load."""
    def both(factor):
        return version(2, factor) | {"models/m/2/golden/one.json": golden(factor).encode()}

    store.put_all(version(1, 2))
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
        changes = iter(range(4, 9))

        def change(key):
            factor = next(changes, None) if key == "models/m/2/model.onnx" else None
            if factor:
                store.put_all(both(factor))

        store.before_get = change
        store.put_all(both(3))
        becomes(server, 8)
        text = server.log_text()
        assert "cannot be served" not in text and "changed while it was fetched" in text, text
        assert 412 in [request.status for request in store.gets("models/m/2/model.onnx")]


def test_a_store_that_fails_takes_nothing_away(store, tmp_path):
    store.put_all(version(1, 2))
    with follow(store, tmp_path) as server:
        store.fails = 503
        serving.until(lambda: metric(server, "tiltyard_store_failures_total")[0] >= 2, "failures to be counted")
        assert "503" in status(server)["store"]["trouble"]
        assert factor_of(server, "m") == 2
        store.fails = None
        store.put_all(version(2, 3))
        becomes(server, 3)
        serving.until(lambda: status(server)["store"]["trouble"] is None, "the trouble to end")
        lines = [line for line in server.log_text().splitlines() if "cannot be listed" in line]
        assert len(lines) == 1, "told once, however often it fails"
        # A store that lists nothing any more is more likely to be the wrong one than to be empty.
        store.delete("models/")
        serving.until(lambda: status(server)["store"]["trouble"], "an empty listing to be told")
        rounds(store)
        assert factor_of(server, "m") == 3


def test_an_object_that_is_not_given_harms_no_neighbour(store, tmp_path):
    store.put_all(version(1, 2) | version(1, 3, "other"))
    with follow(store, tmp_path) as server:
        store.put_all(version(2, 5) | version(2, 6, "other") | {"models/m/2/more.bin": b"x" * 100_000})
        # Each time it is asked for, a little of it comes and then the connection breaks; in the end nothing more.
        store.before_get = lambda key: store.cuts.update({key: 0}) if key == "models/m/2/more.bin" else None
        becomes(server, 6, "other")
        serving.until(lambda: "more.bin" in (status(server)["store"]["trouble"] or ""), "the failure to be told", 30)
        assert factor_of(server, "m") == 2, "what is not whole is not served"
        store.before_get = None
        store.cuts.clear()
        becomes(server, 5)


def test_a_start_without_the_store(store, tmp_path):
    store.put_all(version(1, 2))
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
    store.stop()
    server.ports_file.unlink()
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2, "the cache has it"
        assert "what the cache has of it is served" in server.log_text()
        store.start()
        store.put_all(version(2, 3))
        becomes(server, 3)
    store.stop()
    empty = follow(store, tmp_path / "empty", wait=False)
    try:
        serving.until(empty.ports_file.exists, "the ports")
        ports = json.loads(empty.ports_file.read_text())
        empty.http_port, empty.admin_port = ports["http"], ports["admin"]
        serving.until(lambda: status(empty)["store"]["trouble"], "the reason to be told")
        assert not empty.is_ready(), "nothing is here that could be served"
        store.start()
        serving.until(empty.is_ready, "readiness")
        assert factor_of(empty, "m") == 3
        assert empty.stop() == 0
    finally:
        empty.kill()


@pytest.mark.parametrize("spoil", ["flip", "cut", "add", "remove"])
def test_a_cache_that_somebody_changed_is_not_believed(store, tmp_path, spoil):
    store.put_all(version(1, 2) | version(1, 7, "other"))
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
        folder = storing.cached(server, "models") / "m" / "1"
    file = folder / "model.onnx"
    content = file.read_bytes()
    if spoil == "flip":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif spoil == "cut":
        file.write_bytes(content[:-1])
    elif spoil == "remove":
        file.unlink()
    else:
        (folder.parent / "9").mkdir()
        (folder.parent / "9" / "model.onnx").write_bytes(times(9))
    server.ports_file.unlink()
    with follow(store, tmp_path) as server:
        assert (factor_of(server, "m"), factor_of(server, "other")) == (2, 7)
        assert file.read_bytes() == content
        assert factor_of(server, "m", "9") is None
        assert len(store.gets("models/m/1/model.onnx")) == (1 if spoil == "add" else 2)
        assert len(store.gets("models/other/1/model.onnx")) == 1, "what is as it was is not fetched again"


def test_names_in_a_store_are_hostile(store, tmp_path):
    names = ["evil/1/..\\..\\x", "evil/1/a\\b", ".hidden/1/model.onnx", "evil/1/" + "n" * 300]
    store.put_all(version(1, 2) | {f"models/{name}": times(9) for name in names} | version(1, 9, "evil"))
    with follow(store, tmp_path) as server:
        assert factor_of(server, "m") == 2
        assert factor_of(server, "evil") is None
        assert "is refused: its name has a backslash" in server.log_text()
        # What object_store itself takes for no path stops the listing, and nothing else.
        store.put("models/m/1/../../../../../escaped", b"x")
        serving.until(lambda: ".." in (status(server)["store"]["trouble"] or ""), "the name to be told")
        assert factor_of(server, "m") == 2
        store.delete("models/m/1/..")
        store.put_all(version(2, 3))
        becomes(server, 3)
    assert sorted(path.name for path in storing.cached(server, "models").iterdir()) == ["m"]
    assert not list(tmp_path.rglob("escaped"))


def test_a_disk_that_is_full_takes_nothing_away(store, tmp_path):
    store.put_all(version(1, 2))
    with follow(store, tmp_path) as server:
        store.fails = 503
        serving.until(lambda: status(server)["store"]["trouble"], "the store to be missed")
        content = version(2, 3)
        tag = hashlib.md5(*content.values()).hexdigest()
        name = hashlib.sha256(f"m/2/model.onnx\0etag:{tag}".encode()).hexdigest()[:32]
        part = storing.cached(server, "models").parent / "parts" / f"{name}.part"
        part.symlink_to("/dev/full")
        store.put_all(content)
        store.fails = None
        serving.until(lambda: "No space left" in (status(server)["store"]["trouble"] or ""), "the full disk to be told")
        assert factor_of(server, "m") == 2
        part.unlink()
        becomes(server, 3)


def test_no_secret_is_logged(store, tmp_path):
    store.put_all(version(1, 2))
    with follow(store, tmp_path, "--log-level", "trace") as server:
        store.fails = 403
        serving.until(lambda: "403" in (status(server)["store"]["trouble"] or ""), "the refusal to be told")
        told = json.dumps(status(server))
    for secret in (storing.SECRET, storing.SESSION):
        assert secret not in server.log_text() and secret not in told
    assert all(storing.KEY_ID in request.headers["authorization"] for request in store.requests)


def test_urls_that_cannot_be_used(tmp_path):
    def refused(url, *flags):
        done = command("serve", "--models", url, "--data-dir", str(tmp_path), "--http-port", "0", "--grpc-port", "0",
                       "--admin-port", "0", *flags, cwd=tmp_path)
        assert done.returncode == 1, done
        return done.stderr

    said = refused("https://me:hunter2@host/models")
    assert "holds no user, password or query" in said and "hunter2" not in said
    assert "expected a path, or s3://" in refused("ftp://host/models")
    assert "store_token_file" in refused("https://host/models", "--store-token-file", str(tmp_path / "none"))
    (tmp_path / "stores").write_text("in the way")
    assert "--data-dir" in refused(URL)


def test_commands_take_urls(store, tmp_path):
    store.put_all(version(1, 2))
    flags = ["--data-dir", str(tmp_path / "data")]
    done = command("check", URL, *flags, store=store, cwd=tmp_path)
    assert done.returncode == 0 and "m " in done.stdout, done
    done = command(
        "predict", "m", "--models", URL, *flags, "--data", golden(2), store=store, cwd=tmp_path)
    assert done.returncode == 0 and "20" in done.stdout, done
    store.fails = 503
    done = command("check", URL, *flags, store=store, cwd=tmp_path)
    assert done.returncode == 1 and URL in done.stderr and "503" in done.stderr, done


def test_two_servers_with_one_data_folder(store, tmp_path):
    """As when one is to follow the other: each has copies of its own."""
    store.put_all(version(1, 2))
    data = {"TILTYARD_DATA_DIR": str(tmp_path / "shared")}
    servers = []
    try:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "data").symlink_to(tmp_path / "shared")
            (tmp_path / "shared").mkdir(exist_ok=True)
            servers.append(follow(store, tmp_path / name, variables=data))
        assert [factor_of(server, "m") for server in servers] == [2, 2]
        assert len(list((tmp_path / "shared" / "stores").iterdir())) == 2
        assert [server.stop() for server in servers] == [0, 0]
    finally:
        for server in servers:
            server.kill()


def test_over_tls(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with storing.Store(context) as store:
        store.put_all(version(1, 2))
        trusted = {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "AWS_ALLOW_HTTP": "false"}
        with follow(store, tmp_path / "trusting", variables=trusted) as server:
            assert factor_of(server, "m") == 2
        stranger = follow(store, tmp_path / "doubting", variables={"AWS_ALLOW_HTTP": "false"}, wait=False)
        try:
            serving.until(lambda: "cannot be listed" in stranger.log_text(), "the false certificate to be told")
            assert "certificate" in stranger.log_text().lower()
        finally:
            stranger.kill()


# --- Plain file servers and WebDAV --------------------------------------------------------------------------------


def test_a_plain_file_server_with_a_list(tmp_path):
    """Python's own, which gives neither tags nor ranges; the list is made with `sha256sum`."""
    folder = tmp_path / "www" / "models"

    def put(number, factor):
        (folder / "m" / str(number)).mkdir(parents=True, exist_ok=True)
        (folder / "m" / str(number) / "model.onnx").write_bytes(times(factor))

    def write_list():
        made = subprocess.run(
            "find . -type f ! -name SHA256SUMS -exec sha256sum {} + > SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS",
            shell=True, cwd=folder, check=True)
        assert made.returncode == 0

    put(1, 2)
    write_list()
    handler = functools.partial(Silent, directory=str(tmp_path / "www"))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{httpd.server_address[1]}/models/"
        with serving.Server(url, tmp_path / "server", *QUICK) as server:
            assert factor_of(server, "m") == 2
            # A file that the list does not know, or knows otherwise, is not served.
            put(2, 3)
            put(1, 4)
            serving.until(lambda: factor_of(server, "m") == 2, "the old version")
            write_list()
            becomes(server, 3)
            serving.until(lambda: factor_of(server, "m", "1") == 4, "the changed version")
            (folder / "m" / "2" / "model.onnx").write_bytes(times(5))
            text = (folder / "SHA256SUMS").read_text()
            (folder / "SHA256SUMS").write_text(text.replace(hashlib.sha256(times(3)).hexdigest(), "0" * 64))
            serving.until(lambda: "its SHA-256 is" in (status(server)["store"]["trouble"] or ""), "the lie to be told")
            assert factor_of(server, "m") == 3
            (folder / "SHA256SUMS").unlink()
            serving.until(
                lambda: "there is no SHA256SUMS" in (status(server)["store"]["trouble"] or ""), "the list to be missed")
            assert factor_of(server, "m") == 3
    finally:
        httpd.shutdown()
        httpd.server_close()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_webdav_with_a_token(store, tmp_path):
    store.dav = True
    store.put_all(version(1, 2))
    token = tmp_path / "token"
    token.write_text(storing.TOKEN + "\n")
    flags = ["--store-token-file", str(token), "--log-level", "trace"]
    with follow(store, tmp_path / "server", *flags, url=f"{store.address}/models") as server:
        assert factor_of(server, "m") == 2
        store.put_all(version(2, 3))
        becomes(server, 3)
        store.delete("models/m/2/")
        becomes(server, 2)
        # A folder that is gone is not the same as one that is empty.
        store.delete("models/")
        serving.until(lambda: status(server)["store"]["trouble"], "the empty folder to be told")
        assert factor_of(server, "m") == 2
    assert {request.headers.get("authorization") for request in store.requests} == {f"Bearer {storing.TOKEN}"}
    assert storing.TOKEN not in server.log_text()
