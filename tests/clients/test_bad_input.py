"""Does bad input get the protocol's status and a message that helps, and does the server then serve on as before?

The mistakes that can be said in every form are in `scenarios.json`; here are those that live in how bytes are written:
JSON, binary tensors, protobuf, HTTP itself. After each test a good request must be answered as before.
"""

import gzip
import json
import socket
import struct
import time
import zlib

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

import asking
import reference
import serving

pytestmark = pytest.mark.usefixtures("still_serves")

INFER = "/v2/models/identity_fp32/infer"
GOOD = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2]}]}
GOOD_BYTES = json.dumps(GOOD).encode()


def invalid(answer, *words, status=400):
    """A client's mistake: the status, and an error object whose message says each of the words."""
    assert answer is not None, "the connection was closed without an answer"
    assert answer.status == status, answer
    message = answer.error()
    missing = [word for word in words if word not in message]
    assert not missing, f"the message does not say {missing}: {message}"


def good(answer):
    assert answer is not None, "the connection was closed without an answer"
    assert answer.status == 200, answer
    assert answer.json()["outputs"][0]["data"] == [1.5, -2]


def head(method="POST", path=INFER, version="HTTP/1.1", **headers):
    """A request's head, as bytes; underscores in names of headers stand for hyphens."""
    lines = [f"{method} {path} {version}", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


# --- JSON --------------------------------------------------------------------------------------------------------


def body_of(datatype="FP32", shape="[1,2]", data="[1,2]", name="input"):
    return f'{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}'.encode()


@pytest.mark.parametrize("data", [
    "[[1,2],[3]]", "[[1,2],3]", "[1,[2]]", "[1,\"2\"]", "[1,true]", "[1,{}]", "[[],[1,2]]",
    "{\"0\":1}", "\"12\"", "12", "null", "true", "[1]", "[1,2,3]", "[]", "[1e39,1]", "[-1e39,1]", "[1e999,1]",
])
def test_data_that_is_no_tensor_of_floats(server, data):
    """Ragged, mixed, too many, too few, or beyond the type's range."""
    invalid(server.post(INFER, body_of(data=data)), "input")


@pytest.mark.parametrize("datatype, number", [
    ("INT8", "128"), ("INT8", "-129"), ("UINT8", "256"), ("UINT8", "-1"), ("INT16", "32768"), ("UINT16", "65536"),
    ("INT32", "2147483648"), ("UINT32", "4294967296"), ("INT64", "9223372036854775808"),
    ("INT64", "-9223372036854775809"), ("UINT64", "18446744073709551616"), ("UINT64", "-1"), ("INT64", "1e30"),
    ("INT64", "NaN"), ("INT64", "null"), ("INT32", "NaN"), ("INT32", "null"), ("INT32", "Infinity"), ("INT32", "1.5"),
    ("INT32", "\"1\""), ("BOOL", "2"), ("BOOL", "\"true\""), ("BOOL", "null"), ("FP16", "65536"), ("FP64", "1e400"),
])
def test_numbers_that_the_type_does_not_hold(server, datatype, number):
    model = f"identity_{datatype.lower()}"
    invalid(server.post(f"/v2/models/{model}/infer", body_of(datatype, "[1,1]", f"[{number}]")), "input")


@pytest.mark.parametrize("text", ["1", "true", "null", "{}"])
def test_what_is_no_text(server, text):
    invalid(server.post("/v2/models/identity_bytes/infer", body_of("BYTES", "[1,1]", f"[{text}]")), "input")


@pytest.mark.parametrize("datatype", ["FLOAT", "fp32", "TYPE_FP32", "", "FP8", "STRING"])
def test_datatypes_that_do_not_exist(server, datatype):
    invalid(server.post(INFER, body_of(datatype)), "input")
    request = service_pb2.ModelInferRequest(model_name="identity_fp32", raw_input_contents=[b"\0" * 8])
    request.inputs.add(name="input", datatype=datatype, shape=[1, 2])
    assert asking.grpc_reply(server, request).kind == "invalid"


@pytest.mark.parametrize("shape", ["[1.5,2]", "[\"1\",2]", "[null,2]", "[true,2]", "2", "null", "{}", "[-1,2]",
                                   "[1e3,2]", "[99999999999999999999,2]"])
def test_shapes_that_are_none(server, shape):
    invalid(server.post(INFER, body_of(shape=shape)))


@pytest.mark.parametrize("shape, model, name", [
    ([2**40, 30], "risk", "features"), ([2**62, 30], "risk", "features"), ([2**63 - 1, 30], "risk", "features"),
    ([2**32, 2**32], "identity_fp32", "input"), ([2**31, 2**31], "identity_fp32", "input"),
])
@pytest.mark.parametrize("count", [0, 30])
def test_absurd_shapes(server, shape, model, name, count):
    """No memory is set aside for what a shape promises and a body does not hold."""
    question = {"model": model, "inputs": [{"name": name, "datatype": "FP32", "shape": shape, "data": [1.0] * count}]}
    for form, ask in asking.FORMS.items():
        reply = ask(server, question)
        assert reply.kind == "invalid", (form, reply)
        assert name in reply.message, (form, reply)


@pytest.mark.parametrize("body", [
    b"", b" ", b"null", b"[]", b"12", b"\"text\"", b"{", b"{}", b"{\"inputs\":null}", b"{\"inputs\":{}}",
    b"{\"inputs\":[1]}", b"{\"inputs\":[{}]}", b"{\"inputs\":[]}", b"not json", b"\xff\xfe\x00", b"\0" * 100,
    GOOD_BYTES[:-1], GOOD_BYTES[:20], GOOD_BYTES + b"}", GOOD_BYTES + b"rest", GOOD_BYTES.replace(b"input", b"\xff", 1),
    b"{\"inputs\":[{\"name\":1,\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1,2]}]}",
    b"{\"inputs\":[{\"name\":\"input\",\"datatype\":\"FP32\",\"data\":[1,2]}]}",
    b"{\"inputs\":[{\"name\":\"input\",\"datatype\":\"FP32\",\"shape\":[1,2]}]}",
    b"{\"parameters\":3,\"inputs\":[{\"name\":\"input\",\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1,2]}]}",
    b"{\"outputs\":3,\"inputs\":[{\"name\":\"input\",\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1,2]}]}",
], ids=lambda body: repr(body[:40])[2:-1])
def test_bodies_that_are_no_request(server, body):
    invalid(server.post(INFER, body))


@pytest.mark.parametrize("depth", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b"{\"a\":", b"}")])
def test_deep_nesting(server, depth, opening, closing):
    nested = opening * depth + (b"1" if opening != b"[" else b"") + closing * depth
    for body in (nested, body_of(data="@").replace(b"@", nested), b'{"parameters":{"p":' + nested + b'},"inputs":[]}',
                 b'{"unknown":' + nested + b',' + GOOD_BYTES[1:]):
        answer = server.post(INFER, body)
        # A key that nobody knows may be skipped whatever its value is; all else is a mistake.
        assert answer.status == 400 or (body.startswith(b'{"unknown"') and answer.status == 200), answer


def test_keys_that_nobody_knows_are_skipped(server):
    good(server.post(INFER, GOOD | {"comment": {"by": ["a", "stranger"]}}))


# --- Binary tensors ----------------------------------------------------------------------------------------------


def binary_body(size, name="input", datatype="FP32", shape=(1, 2)):
    return {"inputs": [{
        "name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}]}


EIGHT = struct.pack("<2f", 1.5, -2)


@pytest.mark.parametrize("size, blob", [
    (8, b""), (8, EIGHT[:7]), (8, EIGHT + b"x"), (7, EIGHT[:7]), (12, EIGHT + b"\0" * 4), (0, b""), (0, EIGHT),
    (4, EIGHT), (2**63, EIGHT), (2**64, EIGHT), (-8, EIGHT), ("8", EIGHT), (8.5, EIGHT), (None, EIGHT), (True, EIGHT),
])
def test_binary_sizes_that_do_not_match(server, size, blob):
    invalid(asking.post_binary(server, INFER, binary_body(size), blob))


@pytest.mark.parametrize("length", ["-1", "x", "", "99999", "99999999999999999999", "1", "0x10", "1.5"])
def test_header_lengths_that_lie(server, length):
    invalid(asking.post_binary(server, INFER, binary_body(8), EIGHT, header_length=length))


def test_binary_without_the_header(server):
    body = json.dumps(binary_body(8)).encode() + EIGHT
    invalid(server.post(INFER, body, {"Content-Type": "application/octet-stream"}))


def test_data_both_ways(server):
    body = binary_body(8)
    body["inputs"][0]["data"] = [1.5, -2]
    invalid(asking.post_binary(server, INFER, body, EIGHT), "input")


@pytest.mark.parametrize("blob", [b"", b"\0" * 7, b"\0" * 9, b"\0" * 8 * 30])
def test_raw_body_of_the_wrong_length(server, blob):
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    invalid(server.post("/v2/models/digits/infer", blob, headers), "image")


def test_raw_body_for_two_inputs(server):
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    invalid(server.post("/v2/models/two_in_two_out/infer", b"\0" * 16, headers))


LYING_BYTES = [
    b"\1", b"\1\0\0", struct.pack("<I", 5) + b"abc", struct.pack("<I", 2**32 - 1) + b"abc",
    struct.pack("<I", 2**31) + b"abc", struct.pack("<I", 1) + b"abc", struct.pack("<I", 3) + b"abc" + b"\0",
    struct.pack("<I", 3) + b"abc" + struct.pack("<I", 1) + b"d", b"",
]


@pytest.mark.parametrize("blob", LYING_BYTES, ids=repr)
def test_texts_with_lying_lengths(server, blob):
    body = binary_body(len(blob), datatype="BYTES", shape=(1, 1))
    invalid(asking.post_binary(server, "/v2/models/identity_bytes/infer", body, blob), "input")
    request = service_pb2.ModelInferRequest(model_name="identity_bytes", raw_input_contents=[blob])
    request.inputs.add(name="input", datatype="BYTES", shape=[1, 1])
    reply = asking.grpc_reply(server, request)
    assert reply.kind == "invalid" and "input" in reply.message, reply


def test_text_that_is_not_utf8(server):
    """ONNX has text, not bytes, so either the bytes come back as they were or the mistake is named; nothing is lost."""
    blob = struct.pack("<I", 3) + b"\xff\xfe\0"
    body = binary_body(len(blob), datatype="BYTES", shape=(1, 1)) | {"parameters": {"binary_data_output": True}}
    reply = asking.rest_reply(asking.post_binary(server, "/v2/models/identity_bytes/infer", body, blob))
    if reply.kind is None:
        assert reply.outputs["output"].tolist() == [[b"\xff\xfe\0"]]
    else:
        assert reply.kind == "invalid" and "input" in reply.message, reply


def test_a_bool_that_is_neither(server):
    """A byte of 2 must not reach an engine as a BOOL: it is either refused or read as true."""
    request = service_pb2.ModelInferRequest(model_name="identity_bool", raw_input_contents=[b"\2"])
    request.inputs.add(name="input", datatype="BOOL", shape=[1, 1])
    reply = asking.grpc_reply(server, request)
    if reply.kind is None:
        assert reply.outputs["output"].tobytes() == b"\1"
    else:
        assert reply.kind == "invalid", reply


# --- Protobuf ----------------------------------------------------------------------------------------------------


def request_of(shape=(1, 2), **more):
    made = service_pb2.ModelInferRequest(model_name="identity_fp32", **more)
    made.inputs.add(name="input", datatype="FP32", shape=shape)
    return made


def test_raw_and_typed_contents_exclude_each_other(server):
    made = request_of(raw_input_contents=[EIGHT])
    made.inputs[0].contents.fp32_contents.extend([1.5, -2])
    assert asking.grpc_reply(server, made).kind == "invalid"


def test_no_contents_at_all(server):
    reply = asking.grpc_reply(server, request_of())
    assert reply.kind == "invalid" and "input" in reply.message, reply


@pytest.mark.parametrize("blobs", [[EIGHT, EIGHT], [EIGHT[:4]], [EIGHT + b"\0"], [b""], [b"", EIGHT]])
def test_raw_contents_that_do_not_match(server, blobs):
    assert asking.grpc_reply(server, request_of(raw_input_contents=blobs)).kind == "invalid"


@pytest.mark.parametrize("field, values", [
    ("int_contents", [1, 2]), ("fp64_contents", [1, 2]), ("bytes_contents", [b"1", b"2"]), ("fp32_contents", [1]),
    ("fp32_contents", [1, 2, 3]),
])
def test_typed_contents_that_do_not_match(server, field, values):
    made = request_of()
    getattr(made.inputs[0].contents, field).extend(values)
    reply = asking.grpc_reply(server, made)
    assert reply.kind == "invalid" and "input" in reply.message, reply


@pytest.mark.parametrize("datatype, value", [("INT8", 128), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 2**16)])
def test_typed_numbers_out_of_range(server, datatype, value):
    made = service_pb2.ModelInferRequest(model_name=f"identity_{datatype.lower()}")
    item = made.inputs.add(name="input", datatype=datatype, shape=[1, 1])
    getattr(item.contents, asking.TYPED_FIELDS[datatype]).append(value)
    reply = asking.grpc_reply(server, made)
    assert reply.kind == "invalid" and "input" in reply.message, reply


def test_fp16_has_no_typed_contents(server):
    made = service_pb2.ModelInferRequest(model_name="identity_fp16")
    made.inputs.add(name="input", datatype="FP16", shape=[1, 1]).contents.fp32_contents.append(1)
    assert asking.grpc_reply(server, made).kind == "invalid"


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x2a\x02\x0a", b"\x0a\x01\xff",
                                     asking.raw({"model": "identity_fp32", **GOOD}).SerializeToString()[:-3]])
def test_messages_that_are_no_protobuf(server, content):
    """Truncated, lying lengths, text that is not UTF-8."""
    call = server.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as raised:
        call(content, timeout=serving.ANSWER_SECONDS_MAX)
    assert raised.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT, "a client's mistake is never INTERNAL"


# --- HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [
    None, "application/x-www-form-urlencoded", "application/json; charset=utf-8", "APPLICATION/JSON"])
def test_content_types_whose_meaning_is_clear(server, content_type):
    headers = {"Content_Type": content_type} if content_type else {}
    good(server.raw(head(Content_Length=len(GOOD_BYTES), **headers) + GOOD_BYTES))


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=x", "application/xml"])
def test_content_types_of_something_else(server, content_type):
    invalid(server.post(INFER, GOOD_BYTES, {"Content-Type": content_type}), content_type.split(";")[0])


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "nonsense", "gzip, gzip, nonsense"])
def test_codings_that_are_not_spoken(server, coding):
    answer = server.post(INFER, GOOD_BYTES, {"Content-Type": "application/json", "Content-Encoding": coding})
    assert answer.status in (400, 501), answer
    assert "nonsense" in answer.error() or coding in answer.error(), answer


@pytest.mark.parametrize("coding, body", [
    ("gzip", GOOD_BYTES), ("deflate", GOOD_BYTES), ("gzip", gzip.compress(GOOD_BYTES)[:-9]),
    ("gzip", gzip.compress(GOOD_BYTES)[:12]), ("deflate", zlib.compress(GOOD_BYTES)[:-6]),
    ("gzip", zlib.compress(GOOD_BYTES)),
    ("gzip", gzip.compress(GOOD_BYTES)[:-8] + b"\0" * 8),
])
def test_bodies_that_are_not_what_the_coding_says(server, coding, body):
    invalid(server.post(INFER, body, {"Content-Type": "application/json", "Content-Encoding": coding}), "encoding")


@pytest.mark.parametrize("coding", ["identity", "gzip", "GZIP", "x-gzip", "deflate"])
def test_codings_that_are_spoken(server, coding):
    pack = {"identity": bytes, "deflate": zlib.compress}.get(coding, gzip.compress)
    good(server.post(INFER, pack(GOOD_BYTES), {"Content-Encoding": coding}))


def test_truncated_body_and_hang_up(server):
    """Half a body, then the client is gone: there is nobody to answer, and nothing may remain."""
    answer = server.raw(head(Content_Length=len(GOOD_BYTES)) + GOOD_BYTES[:50], half_close=True)
    assert answer is None or answer.status == 400, answer


def test_content_length_shorter_than_the_body(server):
    """The rest is the start of the next request, which is none."""
    invalid(server.raw(head(Content_Length=20) + GOOD_BYTES, half_close=True))


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999999999999999"])
def test_content_lengths_that_are_none(server, length):
    answer = server.raw(head(Content_Length=length) + GOOD_BYTES, half_close=True)
    assert answer is None or answer.status in (400, 413), answer


def test_two_content_lengths(server):
    """Two lengths that differ are how requests are smuggled past proxies."""
    request = head(Content_Length=len(GOOD_BYTES)).replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n")
    answer = server.raw(request + GOOD_BYTES, half_close=True)
    assert answer is None or answer.status == 400, answer


@pytest.mark.parametrize("request_bytes", [
    b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, b"\0" * 100,
    b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /v2 HTTP/1.1\r\nbad header\r\n\r\n",
    b"POST " + b"/x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nHost: a\r\nBig: " + b"x" * 1_000_000 + b"\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % number for number in range(5000)) + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
], ids=lambda request: repr(request[:24])[2:-1])
def test_what_is_no_http(server, request_bytes):
    try:
        answer = server.raw(request_bytes, half_close=True)
    except (OSError, serving.http.client.HTTPException):
        return  # closed in the middle, or answered in HTTP/2 frames: both are an end
    assert answer is None or 400 <= answer.status < 500, answer


def test_http_1_0(server):
    good(server.raw(head(version="HTTP/1.0", Content_Length=len(GOOD_BYTES)) + GOOD_BYTES))


def test_http_1_0_without_a_host(server):
    request = head(version="HTTP/1.0", Content_Length=len(GOOD_BYTES)).replace(b"Host: localhost\r\n", b"")
    good(server.raw(request + GOOD_BYTES))


def chunks(body, size):
    parts = [body[at:at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunked(server, size):
    good(server.raw(head(Transfer_Encoding="chunked") + chunks(GOOD_BYTES, size)))


def test_chunks_that_are_none(server):
    answer = server.raw(head(Transfer_Encoding="chunked") + b"xyz\r\n" + GOOD_BYTES, half_close=True)
    assert answer is None or answer.status == 400, answer


def test_expect_100_continue(server):
    with socket.create_connection(("127.0.0.1", server.http_port), serving.ANSWER_SECONDS_MAX) as connection:
        connection.sendall(head(Content_Length=len(GOOD_BYTES), Expect="100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(GOOD_BYTES)
        good(serving.read_answer(connection))


def test_many_requests_on_one_connection(server):
    """A client's mistake costs an answer, not the connection."""
    connection = serving.http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=serving.ANSWER_SECONDS_MAX)
    for body, status in [(GOOD_BYTES, 200), (b"{}", 400), (GOOD_BYTES, 200)]:
        connection.request("POST", INFER, body)
        if status == 400:
            kept = connection.sock
        answer = connection.getresponse()
        assert answer.status == status, answer.read()
        answer.read()
    assert connection.sock is kept
    connection.close()


@pytest.mark.parametrize("path", [
    "/", "/v2/nothing", "/v3", "/v2/models//infer", "/v2/models/risk/nothing",
    "/v2/models/risk/versions/", "/v2/models/risk/versions/2/nothing", "/v2/health", "/../etc/passwd",
    "/v2/models/..%2f..%2fetc/infer", "/v2/models/%00/infer", "/v2/models/%ff/infer", "/v2/models/%zz/infer",
    "/v1/models/nobody/score",
])
def test_unknown_paths(server, path):
    for method in ("GET", "POST"):
        answer = server.ask(method, path, GOOD_BYTES if method == "POST" else None)
        if path == "/" and answer.status == 200:
            continue  # a page that says what this is would be legal
        assert answer.status in (400, 404, 405), (method, answer)
        assert answer.error()


@pytest.mark.parametrize("method, path", [
    ("GET", INFER), ("DELETE", INFER), ("PUT", INFER), ("POST", "/v2/health/ready"), ("DELETE", "/v2"),
    ("PATCH", "/v2/models/risk"), ("BREW", INFER),
])
def test_wrong_methods(server, method, path):
    answer = server.ask(method, path)
    assert answer.status == 405, answer
    assert answer.headers["allow"]
    assert answer.error()


def test_names_in_paths_are_decoded(server):
    good(server.post("/v2/models/identity%5Ffp32/infer", GOOD))


def test_model_names_that_are_odd(server):
    for name in ("größe", "a b", "x" * 5000, "risk/../risk", "../risk", "\n"):
        reply = asking.ask_raw(server, {"model": name, **GOOD})
        assert reply.kind in ("not_found", "invalid"), reply
    assert asking.ask_raw(server, {"model": "", **GOOD}).kind in ("not_found", "invalid")


# --- Size and time, on a server with tight limits ----------------------------------------------------------------

MEGABYTE = 1024 * 1024


def small_still_serves(small_server):
    good(small_server.post(INFER, GOOD))


def test_announced_body_over_the_limit(small_server):
    """Refused by the announcement, without waiting for a body that is not coming."""
    for length in (MEGABYTE + 1, 100 * MEGABYTE, 2**62):
        answer = small_server.raw(head(Content_Length=length))
        invalid(answer, status=413)
        assert any(limit in answer.error() for limit in ("1048576", "1 MiB", "1MiB")), answer
    small_still_serves(small_server)


def test_body_over_the_limit(small_server):
    body = body_of(shape="[1,400000]", data="[" + ",".join(["1.5"] * 400_000) + "]")
    invalid(small_server.raw(head(Content_Length=len(body)) + body), status=413)
    small_still_serves(small_server)


def test_chunked_body_over_the_limit(small_server):
    """No length is announced, so the limit is met while reading; the answer may come before all is sent."""
    with socket.create_connection(("127.0.0.1", small_server.http_port), serving.ANSWER_SECONDS_MAX) as connection:
        connection.sendall(head(Transfer_Encoding="chunked"))
        try:
            for _ in range(64):
                connection.sendall(b"%x\r\n%s\r\n" % (65536, b" " * 65536))
        except ConnectionError:
            pass  # the server has heard enough
        try:
            answer = serving.read_answer(connection)
        except ConnectionError:
            answer = None
    assert answer is None or answer.status == 413, answer
    small_still_serves(small_server)


@pytest.mark.parametrize("coding, pack", [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_small_body_that_unpacks_to_a_huge_one(small_server, coding, pack):
    packed = pack(b" " * (200 * MEGABYTE))
    assert len(packed) < MEGABYTE
    started = time.monotonic()
    invalid(small_server.post(INFER, packed, {"Content-Encoding": coding}), status=413)
    assert time.monotonic() - started < 2
    small_still_serves(small_server)


def test_message_over_the_limit(small_server):
    x = np.zeros((1, 300_000), np.float32)
    reply = asking.ask_raw(small_server, {"model": "identity_fp32", "inputs": [asking.tensor("input", x)]})
    assert reply.kind == "too_large" and reply.message, reply
    small_still_serves(small_server)


def test_compressed_message_over_the_limit(small_server):
    request = asking.raw({"model": "identity_fp32", "inputs": [
        asking.tensor("input", np.zeros((1, 3_000_000), np.float32))]})
    with pytest.raises(grpc.RpcError) as raised:
        small_server.stub.ModelInfer(request, timeout=serving.ANSWER_SECONDS_MAX, compression=grpc.Compression.Gzip)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, raised.value
    small_still_serves(small_server)


@pytest.mark.parametrize("start", [b"", b"P", b"POST /v2/models", head(Content_Length=100)[:-2], b"PRI * HT"])
@pytest.mark.parametrize("port", ["http_port", "grpc_port"])
def test_silent_connection_is_closed(small_server, start, port):
    """Nothing, or the start of a head, and then silence: closed soon after the header timeout of one second."""
    with socket.create_connection(("127.0.0.1", getattr(small_server, port)), 10) as connection:
        connection.sendall(start)
        started = time.monotonic()
        try:
            while connection.recv(1000):
                pass
        except ConnectionError:
            pass
        assert 0.5 < time.monotonic() - started < 5
    small_still_serves(small_server)


def test_idle_connection_is_closed(small_server):
    """One good request, then silence: closed soon after the idle timeout of one second."""
    with socket.create_connection(("127.0.0.1", small_server.http_port), 10) as connection:
        connection.sendall(head(Content_Length=len(GOOD_BYTES)) + GOOD_BYTES)
        good(serving.read_answer(connection))
        started = time.monotonic()
        assert connection.recv(1000) == b""
        assert 0.5 < time.monotonic() - started < 5


@pytest.mark.parametrize("settings", [b"", b"\0\0\0\4\0\0\0\0\0"])
def test_silent_http2_connection_is_closed(small_server, settings):
    with socket.create_connection(("127.0.0.1", small_server.grpc_port), 10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        started = time.monotonic()
        try:
            while connection.recv(1000):
                pass
        except ConnectionError:
            pass
        assert time.monotonic() - started < 8


def test_hundred_silent_connections_harm_nobody(small_server):
    silent = [socket.create_connection(("127.0.0.1", small_server.http_port)) for _ in range(100)]
    small_still_serves(small_server)
    for connection in silent:
        connection.close()


# --- After everything --------------------------------------------------------------------------------------------


def test_answers_are_as_before(server):
    case = reference.case(serving.SAMPLES / "risk" / "2" / "golden" / "eight_rows.json")
    question = {"model": "risk", "inputs": [asking.tensor(name, array) for name, array in case.inputs.items()]}
    for form, ask in asking.FORMS.items():
        reply = ask(server, question)
        assert reply.kind is None, (form, reply)
        case.check(reply.outputs)
