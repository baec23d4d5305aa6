"""Does a client that sends all it has before it listens hear why it was refused, however early that was?"""

import socket

import pytest

import securing
import serving

MODEL = "identity_fp32"
LARGE = 8 << 20
# So much is read away before the answer, so that the connection stays good.
SMALL = 1 << 20


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server that refuses early: with locks, a small bound on bodies, and hardly any requests for each client."""
    folder = tmp_path_factory.mktemp("strict")
    models = serving.link_models(folder / "models", serving.FIXTURES / MODEL)
    scorer, line = securing.new_token("scorer", "scorer")
    other, other_line = securing.new_token("other", "scorer:other")
    (folder / "access").write_text(line + other_line)
    flags = ["--access-file", str(folder / "access"), "--body-bytes-max", "64KiB",
             "--client-rate", "1", "--client-burst", "1", "--client-key", "x-client"]
    with serving.Server(models, folder, *flags) as server:
        server.tokens = {"scorer": scorer, "other": other}
        yield server


def lines(request, token=None, **headers):
    said = [request, "host: x"] + [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if token:
        said.append(f"authorization: Bearer {token}")
    return ("\r\n".join(said) + "\r\n").encode()


def whole(head, length):
    return head + f"content-length: {length}\r\n\r\n".encode() + bytes(length)


def chunked(head, length):
    piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    return head + b"transfer-encoding: chunked\r\n\r\n" + piece * (length >> 16) + b"0\r\n\r\n"


INFER = f"POST /v2/models/{MODEL}/infer HTTP/1.1"
REFUSALS = {
    "no head at all": ("rubbish\r\n\r\n", None, 400),
    "a head that is too large": (INFER + "\r\nx-large: " + "x" * 100_000, None, 431),
    "a path that is none": ("POST /v2/%zz HTTP/1.1", "scorer", 400),
    "a version that is none": (f"POST /v2/models/{MODEL}/versions/x/infer HTTP/1.1", "scorer", 400),
    "nobody": (INFER, None, 401),
    "not allowed": (INFER, "other", 403),
    "no such path": ("POST /v3 HTTP/1.1", "scorer", 404),
    "no such model": ("POST /v2/models/none/infer HTTP/1.1", "scorer", 404),
    "no such method": ("DELETE /v2 HTTP/1.1", "scorer", 405),
    "too large": (INFER, "scorer", 413),
    "score, too large": (f"POST /v1/models/{MODEL}/score HTTP/1.1", "scorer", 413),
    "settings, too large": ("POST /v2/trace/setting HTTP/1.1", None, 401),
    "not offered": (f"POST /v2/models/{MODEL}/generate HTTP/1.1", "scorer", 501),
    "gRPC over HTTP/1.1": (INFER + "\r\ncontent-type: application/grpc", "scorer", 505),
}


@pytest.mark.parametrize("body", [whole, chunked])
@pytest.mark.parametrize("case", REFUSALS)
def test_who_sends_before_it_listens_hears_the_answer(strict, case, body):
    request, token, status = REFUSALS[case]
    head = lines(request, strict.tokens.get(token), x_client=f"{case} {body.__name__}")
    answer = send_all(strict.http_port, body(head, LARGE))
    assert answer.status == status, answer


def test_also_who_asks_too_often(strict):
    head = lines(INFER, strict.tokens["scorer"], x_client="often")
    send_all(strict.http_port, whole(head, 10))
    answer = send_all(strict.http_port, whole(head, LARGE))
    assert answer.status == 429 and answer.headers["retry-after"], answer


def test_also_who_may_not_ask_counts(strict):
    head = lines(INFER, strict.tokens["other"], x_client="forbidden")
    assert [send_all(strict.http_port, whole(head, 10)).status for _ in range(2)] == [403, 429]


@pytest.mark.parametrize("request_, token, status", [
    ("POST /admin/reload HTTP/1.1", None, 401), ("POST /admin/reload HTTP/1.1", "scorer", 403),
    ("POST /nothing HTTP/1.1", "scorer", 404), ("POST /metrics HTTP/1.1", None, 401)])
def test_also_on_the_admin_port(strict, request_, token, status):
    answer = send_all(strict.admin_port, whole(lines(request_, strict.tokens.get(token)), LARGE))
    assert answer.status == status, answer


@pytest.mark.parametrize("case", ["a path that is none", "nobody", "not allowed", "no such model", "too large"])
def test_a_connection_outlives_a_refusal_of_what_is_not_so_large(strict, case):
    request, token, status = REFUSALS[case]
    head = lines(request, strict.tokens.get(token), x_client=f"{case} again")
    with socket.create_connection(("127.0.0.1", strict.http_port), 30) as connection:
        for _ in range(3):
            connection.sendall(whole(head, SMALL))
            answer = serving.read_answer(connection)
            assert answer is not None and answer.status in (status, 429), answer
            assert answer.headers.get("connection") != "close"


def test_who_sends_without_end_is_cut_off(strict):
    head = lines(INFER, None) + b"transfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", strict.http_port), 30) as connection, pytest.raises(OSError):
        connection.sendall(head)
        for _ in range(4096):
            connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def test_who_waits_to_be_told_is_not_told_to_send(strict):
    head = lines(INFER, None, expect="100-continue") + b"content-length: 1000\r\n\r\n"
    answer = strict.raw(head)
    assert answer.status == 401, answer


def send_all(port, request):
    """Sends all of it, and only then reads the answer. A connection that is reset meanwhile is a failure."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request)
        answer = serving.read_answer(connection)
        assert answer is not None, "no answer"
        return answer
