"""Who may do what, over REST, gRPC and the admin port, and does a secret stay one?"""

import base64
import json
import threading
import time
import urllib.parse

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2

import asking
import securing
import serving

MODEL = "identity_fp32"
QUESTION = {"model": MODEL, "inputs": [asking.tensor("input", np.ones((1, 4), np.float32))]}
BODY = {"inputs": QUESTION["inputs"]}

OK, NOBODY, FORBIDDEN, MISSING = 200, 401, 403, 404
CODES = {
    OK: None, NOBODY: grpc.StatusCode.UNAUTHENTICATED, FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    MISSING: grpc.StatusCode.NOT_FOUND,
}


def make(folder, *flags, lines=(), **more):
    models = serving.link_models(folder / "models", serving.FIXTURES / MODEL, serving.FIXTURES / "two_in_two_out")
    access = folder / "access"
    access.write_text("".join(lines))
    return serving.Server(
        models, folder, "--access-file", str(access), "--model-control", "explicit", "--load-model", MODEL,
        "--log-level", "trace", *flags, **more)


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server with a caller for each role, and their tokens by name."""
    folder = tmp_path_factory.mktemp("locked")
    roles = {
        "viewer": ["viewer"], "scorer": [f"scorer:{MODEL}"], "deployer": ["deployer"], "approver": ["approver"],
        "admin": ["admin"], "elsewhere": ["scorer:other*"],
    }
    tokens, lines = {}, []
    for name, granted in roles.items():
        tokens[name], line = securing.new_token(name, *granted)
        lines.append(line)
    with make(folder, lines=lines) as server:
        server.tokens = tokens
        yield server
    log = server.log_text()
    assert all(token not in log and token[9:] not in log for token in tokens.values()), "a token is in the log"


def headers(locked, name):
    return {"Authorization": f"Bearer {locked.tokens[name]}"} if name else {}


# One line for each call: who gets which answer. The sixth caller may ask models whose name begins with "other".
WHO = [None, "viewer", "scorer", "deployer", "approver", "admin", "elsewhere"]
REST = [
    ("GET", "/v2/health/live", None, [OK] * 7),
    ("GET", "/v2", None, [NOBODY, OK, OK, OK, OK, OK, OK]),
    ("GET", "/docs/openapi.json", None, [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("POST", "/v2/repository/index", {}, [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("GET", "/v2/models/stats", None, [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("GET", f"/v2/models/{MODEL}", None, [NOBODY, OK, OK, OK, OK, OK, FORBIDDEN]),
    ("GET", f"/v2/models/{MODEL}/stats", None, [NOBODY, OK, OK, OK, OK, OK, FORBIDDEN]),
    ("POST", f"/v2/models/{MODEL}/infer", BODY, [NOBODY, FORBIDDEN, OK, FORBIDDEN, FORBIDDEN, OK, FORBIDDEN]),
    # Whether a model exists is told to nobody who may not see it.
    ("GET", "/v2/models/missing", None, [NOBODY, MISSING, FORBIDDEN, MISSING, MISSING, MISSING, FORBIDDEN]),
    ("POST", "/v2/models/missing/infer", BODY, [NOBODY, *[FORBIDDEN] * 4, MISSING, FORBIDDEN]),
    ("POST", f"/v2/repository/models/{MODEL}/load", {}, [NOBODY, FORBIDDEN, FORBIDDEN, OK, FORBIDDEN, OK, FORBIDDEN]),
    ("GET", "/v2/logging", None, [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("POST", "/v2/logging", {"log_error": True}, [NOBODY, *[FORBIDDEN] * 4, OK, FORBIDDEN]),
    ("GET", "/nothing/here", None, [NOBODY, *[MISSING] * 6]),
]


@pytest.mark.parametrize("method, path, body, expected", REST, ids=[f"{line[0]} {line[1]}" for line in REST])
def test_rest(locked, method, path, body, expected):
    answers = [locked.ask(method, path, body, headers(locked, name)) for name in WHO]
    assert [answer.status for answer in answers] == expected, answers
    for answer in answers:
        assert answer.headers.get("www-authenticate", "").startswith("Bearer") == (answer.status == NOBODY)


ADMIN = [
    ("/health/ready", [OK] * 7),
    ("/metrics", [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("/admin/models", [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("/nothing", [NOBODY, *[MISSING] * 6]),
]


@pytest.mark.parametrize("path, expected", ADMIN, ids=[line[0] for line in ADMIN])
def test_admin(locked, path, expected):
    answers = [locked.get(path, headers=headers(locked, name), port=locked.admin_port) for name in WHO]
    assert [answer.status for answer in answers] == expected, answers


def infer_request(model):
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(np.ones(4, np.float32).tobytes())
    return request


GRPC = [
    ("ServerReady", service_pb2.ServerReadyRequest(), [OK] * 7),
    ("ServerMetadata", service_pb2.ServerMetadataRequest(), [NOBODY, *[OK] * 6]),
    ("ModelMetadata", service_pb2.ModelMetadataRequest(name=MODEL), [NOBODY, *[OK] * 5, FORBIDDEN]),
    ("ModelReady", service_pb2.ModelReadyRequest(name=MODEL), [NOBODY, *[OK] * 5, FORBIDDEN]),
    ("ModelConfig", service_pb2.ModelConfigRequest(name=MODEL), [NOBODY, *[OK] * 5, FORBIDDEN]),
    ("ModelStatistics", service_pb2.ModelStatisticsRequest(), [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("ModelStatistics", service_pb2.ModelStatisticsRequest(name=MODEL), [NOBODY, *[OK] * 5, FORBIDDEN]),
    ("RepositoryIndex", service_pb2.RepositoryIndexRequest(), [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("ModelInfer", infer_request(MODEL), [NOBODY, FORBIDDEN, OK, FORBIDDEN, FORBIDDEN, OK, FORBIDDEN]),
    ("ModelInfer", infer_request("missing"), [NOBODY, *[FORBIDDEN] * 4, MISSING, FORBIDDEN]),
    ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name=MODEL),
     [NOBODY, FORBIDDEN, FORBIDDEN, OK, FORBIDDEN, OK, FORBIDDEN]),
    ("LogSettings", service_pb2.LogSettingsRequest(), [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
    ("TraceSetting", service_pb2.TraceSettingRequest(), [NOBODY, OK, FORBIDDEN, OK, OK, OK, FORBIDDEN]),
]


def code_of(call):
    try:
        call()
        return None
    except grpc.RpcError as error:
        return error.code()


@pytest.mark.parametrize("method, request_, expected", GRPC, ids=[f"{number}-{line[0]}" for number, line in enumerate(GRPC)])
def test_grpc(locked, method, request_, expected):
    call = getattr(locked.stub, method)
    metadata = [[("authorization", value) for value in headers(locked, name).values()] for name in WHO]
    codes = [code_of(lambda: call(request_, metadata=pairs, timeout=10)) for pairs in metadata]
    assert codes == [CODES[status] for status in expected]


def test_grpc_streams_reflection_and_health(locked):
    scorer = [("authorization", f"Bearer {locked.tokens['scorer']}")]
    requests = [infer_request(MODEL), infer_request("two_in_two_out")]
    good, refused = locked.stub.ModelStreamInfer(iter(requests), metadata=scorer, timeout=10)
    assert not good.error_message and "takes one of the roles" in refused.error_message
    assert code_of(lambda: list(locked.stub.ModelStreamInfer(iter(requests), timeout=10))) == CODES[NOBODY]
    health = health_pb2_grpc.HealthStub(locked.channel())
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    assert code_of(lambda: ProtoReflectionDescriptorDatabase(locked.channel()).get_services()) == CODES[NOBODY]


@pytest.mark.parametrize("value", [
    "Bearer", "Bearer ", "Basic YTpi", "Bearer wrong", "Bearer a.b.c", "bearer\ttoken", "Bearer " + "x" * 20_000])
def test_credentials_that_are_none(locked, value):
    answer = locked.get("/v2", headers={"Authorization": value})
    assert answer.status == NOBODY and "x" * 100 not in answer.error()


def test_refusals_are_counted_and_changes_are_logged(locked):
    locked.get("/v2")
    metrics = locked.get("/metrics", headers=headers(locked, "viewer"), port=locked.admin_port).body.decode()
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("tiltyard_refused_total"))
    assert float(lines['tiltyard_refused_total{kind="unauthenticated"}']) > 0
    locked.post(f"/v2/repository/models/{MODEL}/load", {}, headers(locked, "deployer"))
    serving.until(lambda: "changing versions of model" in locked.log_text(), "who changed what in the log")


def test_commands_send_tokens(locked, tmp_path):
    ports = ["--ports-file", locked.ports_file]
    file = tmp_path / "token"
    file.write_text(locked.tokens["viewer"] + "\n")
    code, out, err = securing.command("models", *ports, "--token-file", file)
    assert code == 0 and MODEL in out, err
    code, out, err = securing.command("models", *ports, variables={"TILTYARD_TOKEN": locked.tokens["viewer"]})
    assert code == 0, err
    code, out, err = securing.command("models", *ports)
    assert code == 4 and "credentials" in err, err
    code, out, err = securing.command("models", *ports, variables={"TILTYARD_TOKEN": "wrong"})
    assert code == 4 and "not known" in err, err
    code, out, err = securing.command("config", "--access-file", "x", variables={"TILTYARD_TOKEN": "hush-hush"})
    assert code == 0 and "hush" not in out + err


def test_the_list_follows_its_file(tmp_path):
    token, line = securing.new_token("ada", "viewer")
    other, other_line = securing.new_token("ben", "viewer")
    with make(tmp_path, lines=[line]) as server:
        status = lambda token: server.get("/v2", headers={"Authorization": f"Bearer {token}"}).status
        assert (status(token), status(other)) == (OK, NOBODY)
        (tmp_path / "access").write_text(other_line)
        serving.until(lambda: (status(token), status(other)) == (NOBODY, OK), "the new list", 20)
        (tmp_path / "access").write_text("token broken\n")
        serving.until(lambda: "the old one stays in force" in server.log_text(), "a line in the log", 20)
        assert (status(token), status(other)) == (NOBODY, OK)


class Conversation:
    """A stream of inferences of which each waits for the answer to the one before."""

    def __init__(self, server, token):
        self.next = threading.Event()
        self.over = False
        self.answers = server.stub.ModelStreamInfer(
            self.requests(), metadata=[("authorization", f"Bearer {token}")], timeout=60)

    def requests(self):
        while True:
            self.next.wait()
            if self.over:
                return
            self.next.clear()
            yield infer_request(MODEL)

    def ask(self):
        """None where it was answered, the answer's words where they are an error, the code where the stream ended."""
        self.next.set()
        try:
            return next(self.answers).error_message or None
        except grpc.RpcError as error:
            return error.code()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        self.next.set()
        self.answers.cancel()


def test_a_stream_lives_no_longer_than_its_callers_right(tmp_path):
    token, line = securing.new_token("ada", f"scorer:{MODEL}")
    with make(tmp_path, lines=[line]) as server, Conversation(server, token) as stream:
        assert stream.ask() is None
        # Another role, and then none at all.
        (tmp_path / "access").write_text(line.replace(f"scorer:{MODEL}", "viewer"))
        serving.until(lambda: "takes one of the roles" in (stream.ask() or ""), "the new role", 20)
        (tmp_path / "access").write_text("")
        def is_over():
            said = stream.ask()
            return said is not None and not isinstance(said, str) and said
        assert serving.until(is_over, "the end of the stream", 20) == CODES[NOBODY]


def test_health_is_watched_no_longer_than_allowed(tmp_path):
    token, line = securing.new_token("ada", "viewer")
    with make(tmp_path, "--open-calls", "metrics", lines=[line], wait=False) as server:
        serving.until(server.ports_file.exists, "the ports file", serving.START_SECONDS_MAX)
        server.grpc_port = json.loads(server.ports_file.read_text())["grpc"]
        watched = health_pb2_grpc.HealthStub(server.channel()).Watch(
            health_pb2.HealthCheckRequest(), metadata=[("authorization", f"Bearer {token}")], timeout=60)
        while next(watched).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        (tmp_path / "access").write_text("")
        assert code_of(lambda: next(watched)) == CODES[NOBODY]


def test_a_stream_lives_no_longer_than_its_callers_token(tmp_path):
    provider = Provider(tmp_path / "keys.json")
    flags = oidc_flags("https://login.local", **{"oidc-jwks": tmp_path / "keys.json"})
    with make(tmp_path, *flags, lines=[f"group scorers scorer:{MODEL}\n"]) as server:
        # Clocks may differ by a minute; so it is good for a few seconds more.
        token = provider.token(groups=["scorers"], exp=int(time.time()) - 55)
        with Conversation(server, token) as stream:
            assert stream.ask() is None
            assert serving.until(stream.ask, "the end of the stream", 30) == CODES[NOBODY]


def test_what_is_open_can_be_said(tmp_path):
    with make(tmp_path, "--open-calls", "health,metrics", lines=securing.new_token("ada", "viewer")[1:]) as server:
        assert server.get("/metrics", port=server.admin_port).status == OK
        assert server.get("/admin/models", port=server.admin_port).status == NOBODY


def test_open_doors_are_told(tmp_path):
    (tmp_path / "models").mkdir()
    with serving.Server(tmp_path / "models", tmp_path, "--host", "0.0.0.0") as server:
        assert server.log_text().count("nothing locks the doors") == 1


# --- JSON web tokens ------------------------------------------------------------------------------------------------


def encoded(content):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Provider:
    """Signs tokens with RSA, and writes its keys to a file."""

    def __init__(self, path, kid="one"):
        self.key, self.kid = rsa.generate_private_key(65537, 2048), kid
        numbers = self.key.public_key().public_numbers()
        self.jwk = {
            "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256",
            "n": encoded(numbers.n.to_bytes(256, "big")), "e": encoded(numbers.e.to_bytes(3, "big"))}
        path.write_text(json.dumps({"keys": [self.jwk]}))

    def token(self, **claims):
        claims = {"iss": "https://login.local", "aud": "tiltyard", "sub": "ada", "exp": int(time.time()) + 300} | claims
        signed = f"{encoded({'alg': 'RS256', 'kid': self.kid})}.{encoded(claims)}"
        return f"{signed}.{encoded(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def oidc_flags(issuer, **more):
    flags = {"oidc-issuer": issuer, "oidc-audience": "tiltyard"} | more
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def test_json_web_tokens_of_a_file_of_keys(tmp_path):
    keys = tmp_path / "keys.json"
    provider = Provider(keys)
    flags = oidc_flags("https://login.local", **{"oidc-jwks": keys})
    with make(tmp_path, *flags, lines=[f"group scorers scorer:{MODEL}\n", "group ops viewer\n"]) as server:
        def status(token, path="/v2", body=None):
            return server.ask("POST" if body else "GET", path, body, {"Authorization": f"Bearer {token}"}).status
        infer = f"/v2/models/{MODEL}/infer"
        assert status(provider.token(groups=["scorers"]), infer, BODY) == OK
        assert status(provider.token(groups=["ops"]), infer, BODY) == FORBIDDEN
        assert status(provider.token(groups=["ops", "scorers"]), "/v2/models/stats") == OK
        assert status(provider.token(groups=[])) == FORBIDDEN
        assert status(provider.token(groups=["ops"], exp=int(time.time()) - 120)) == NOBODY
        assert status(provider.token(groups=["ops"], aud="other")) == NOBODY
        assert status(provider.token(groups=["ops"], iss="https://evil.local")) == NOBODY
        good = provider.token(groups=["ops"])
        for _ in range(2):
            assert status(good) == OK
        # New keys: tokens of the old ones are worth nothing, remembered or not.
        new = Provider(keys, kid="two")
        serving.until(lambda: status(new.token(groups=["ops"])) == OK, "the new keys", 20)
        assert status(good) == NOBODY


def test_a_real_provider(tmp_path):
    """The whole way: discovery, keys, and an id token from the code flow of an OpenID Connect provider."""
    mock = pytest.importorskip("oidc_provider_mock", reason="pip install oidc-provider-mock brings a provider to test with")
    import httpx
    user = mock.User(sub="ada", claims={"groups": ["ops"]})
    with mock.run_server_in_thread(user_claims=[user]) as provider:
        issuer = f"http://localhost:{provider.server_port}"
        with make(tmp_path, *oidc_flags(issuer), lines=["group ops viewer\n"]) as server:
            client = httpx.Client(base_url=issuer)
            back = "https://app.local/back"
            asked = {"client_id": "tiltyard", "redirect_uri": back, "response_type": "code", "scope": "openid"}
            answer = client.post("/oauth2/authorize", params=asked, data={"sub": "ada"})
            code = urllib.parse.parse_qs(urllib.parse.urlsplit(answer.headers["location"]).query)["code"][0]
            answer = client.post(
                "/oauth2/token", auth=("tiltyard", "secret"),
                data={"grant_type": "authorization_code", "code": code, "redirect_uri": back})
            headers = {"Authorization": f"Bearer {answer.json()['id_token']}"}
            serving.until(lambda: server.get("/v2/models/stats", headers=headers).status == OK, "the provider's keys", 20)
            assert server.post(f"/v2/models/{MODEL}/infer", BODY, headers).status == FORBIDDEN
            tampered = headers["Authorization"][:-8] + "AAAAAAAA"
            assert server.get("/v2", headers={"Authorization": tampered}).status == NOBODY


def test_a_provider_that_is_away_does_not_stop_the_server(tmp_path):
    token, line = securing.new_token("ada", "viewer")
    provider = Provider(tmp_path / "unused.json")
    with make(tmp_path, *oidc_flags("http://127.0.0.1:1"), lines=[line, "group ops viewer\n"]) as server:
        assert server.get("/v2", headers={"Authorization": f"Bearer {token}"}).status == OK
        answer = server.get("/v2", headers={"Authorization": f"Bearer {provider.token(groups=['ops'])}"})
        assert answer.status == 503 and "provider" in answer.error()
