"""Is this gRPC as any gRPC client knows it: health, reflection, deadlines, errors, sizes, compression, promptness?"""

import gzip
import queue
import statistics
import time
import urllib.parse

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2

import asking
import http2
import reference
import serving

pytestmark = pytest.mark.usefixtures("still_serves")

SERVICE = "inference.GRPCInferenceService"
SECONDS = serving.ANSWER_SECONDS_MAX
SMALL = asking.raw({"model": "identity_fp32", "inputs": [asking.tensor("input", np.ones((1, 2), np.float32))]})
SLOW = asking.raw({"model": "slow", "inputs": [asking.tensor("x", np.ones((1, 4), np.float32))]})
SERVING = health_pb2.HealthCheckResponse.SERVING


# --- Health ------------------------------------------------------------------------------------------------------


@pytest.fixture
def health(server):
    return health_pb2_grpc.HealthStub(server.channel())


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_check(health, service):
    assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS).status == SERVING


def test_health_check_of_nobody(health):
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=SECONDS)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_list(server):
    """Asked in bytes, since the released Python package does not have this method yet."""
    ask = server.channel().unary_unary("/grpc.health.v1.Health/List")
    entry = b"\x0a%c%s\x12\x02\x08\x01" % (len(SERVICE), SERVICE.encode())  # the name, and status SERVING
    assert entry in ask(b"", timeout=SECONDS)


@pytest.mark.parametrize("service, status", [
    ("", SERVING), (SERVICE, SERVING), ("nobody", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)])
def test_health_watch(health, service, status):
    """The first word comes at once; the stream then stays open."""
    watch = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
    assert next(watch).status == status
    assert watch.is_active()
    watch.cancel()


# --- Reflection --------------------------------------------------------------------------------------------------


def test_reflection_lists_the_services(server):
    services = ProtoReflectionDescriptorDatabase(server.channel()).get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)


def test_reflection_resolves_the_service(server):
    """The descriptors that the server hands out have the methods and fields that Triton's own have."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(server.channel()))
    found = pool.FindServiceByName(SERVICE)
    wanted = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in wanted.methods:
        mine = found.methods_by_name[method.name]
        assert (mine.client_streaming, mine.server_streaming) == (method.client_streaming, method.server_streaming)
    request, theirs = found.methods_by_name["ModelInfer"].input_type, service_pb2.ModelInferRequest.DESCRIPTOR
    assert {field.name: field.number for field in request.fields} == {
        field.name: field.number for field in theirs.fields}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_in_both_versions(server, version):
    """v1 and v1alpha have the same messages under another name; grpcurl tries v1 first."""
    ask = server.channel().stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString, reflection_pb2.ServerReflectionResponse.FromString)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.ModelInferRequest"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.Nothing"),
    ]
    services, service, request, nothing = ask(iter(requests), timeout=SECONDS)
    assert SERVICE in {item.name for item in services.list_services_response.service}
    assert service.file_descriptor_response.file_descriptor_proto
    assert request.file_descriptor_response.file_descriptor_proto
    assert nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


# --- Deadlines and cancelled calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["50m", "50000u", "50000000n"])
def test_deadline(server, timeout):
    """The server itself says DEADLINE_EXCEEDED, not CANCELLED; grpcio would have said so without it."""
    got = http2.call(server.grpc_port, "ModelInfer", SLOW.SerializeToString(), grpc_timeout=timeout)
    assert got.grpc_status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0], (got.head, got.trailers)


def test_deadline_in_the_queue(server):
    """Calls that cannot be run in time are answered in time, not after those before them: at once with the predicted wait,
    where what waits is known to take too long, else when their time is over."""
    before = [server.stub.ModelInfer.future(SLOW, timeout=60) for _ in range(8)]
    started = time.monotonic()
    got = http2.call(server.grpc_port, "ModelInfer", SLOW.SerializeToString(), grpc_timeout="100m")
    late, refused = grpc.StatusCode.DEADLINE_EXCEEDED.value[0], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert got.grpc_status in (late, refused), (got.head, got.trailers)
    if got.grpc_status == refused:
        assert got.head[b"grpc-message"].startswith(b"the predicted wait for model"), got.head
    assert time.monotonic() - started < 1
    for call in before:
        call.result(timeout=60)


@pytest.mark.parametrize("timeout", ["1H", "10M", "99999999S", "30000m"])
def test_deadline_that_is_kept(server, timeout):
    got = http2.call(server.grpc_port, "ModelInfer", SMALL.SerializeToString(), grpc_timeout=timeout)
    assert got.grpc_status == 0, (got.head, got.trailers)


@pytest.mark.parametrize("timeout", ["", "1", "S", "-1S", "1.5S", "999999999S", "1x"])
def test_deadlines_that_are_none(server, timeout):
    """Refused, or passed over as if it were not there; never a crash, never taken for something else."""
    got = http2.call(server.grpc_port, "ModelInfer", SMALL.SerializeToString(), grpc_timeout=timeout)
    assert got.reset is not None or got.grpc_status in (0, 3, 13), (got.head, got.trailers)


def test_cancelled_calls(server):
    calls = [server.stub.ModelInfer.future(SLOW, timeout=60) for _ in range(30)]
    for call in calls:
        call.cancel()
    assert all(call.cancelled() for call in calls)
    started = time.monotonic()
    server.stub.ModelInfer(SLOW, timeout=60)
    assert time.monotonic() - started < 5, "calls that were cancelled were run all the same"


def test_cancelled_stream(server):
    def requests():
        while True:
            yield SLOW

    call = server.stub.ModelStreamInfer(requests(), timeout=60)
    assert not next(call).error_message
    call.cancel()


# --- Errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nobody", "größe", "100% sure", "line\nbreak", "世界"])
def test_errors_are_trailers_only(server, name):
    """One frame, status 200, the message in percent-encoded UTF-8."""
    question = asking.raw({"model": name, "inputs": []})
    got = http2.call(server.grpc_port, "ModelInfer", question.SerializeToString())
    assert got.head[b":status"] == b"200"
    assert got.head[b"content-type"].startswith(b"application/grpc")
    assert got.head_ended_stream and not got.trailers and not got.body
    assert got.grpc_status == grpc.StatusCode.NOT_FOUND.value[0]
    message = got.grpc_message
    assert all(0x20 <= byte <= 0x7E for byte in message), message
    shown = urllib.parse.unquote(message.decode("ascii"), errors="strict")
    assert name in shown or name.replace("\n", "\\n") in shown, shown


def test_grpcio_reads_the_message(server):
    with pytest.raises(grpc.RpcError) as raised:
        server.stub.ModelInfer(asking.raw({"model": "größe 世界 100%", "inputs": []}), timeout=SECONDS)
    assert "größe 世界 100%" in raised.value.details()


@pytest.mark.parametrize("path", [f"/{SERVICE}/Nothing", "/nobody.Service/Method", "/", f"/{SERVICE}"])
def test_unknown_methods(server, path):
    got = http2.exchange(server.grpc_port, http2.grpc_head(path), http2.frame(b""))
    assert got.head[b":status"] == b"200", got.head
    assert got.grpc_status == grpc.StatusCode.UNIMPLEMENTED.value[0]


@pytest.mark.parametrize("body", [
    b"\0\0\0", b"\0\0\0\0\5ab", b"\0\xff\xff\xff\xff", b"\2\0\0\0\0"],
    ids=["no head", "half a message", "4 GiB announced", "flag of 2"])
def test_framing_that_lies(server, body):
    got = http2.exchange(server.grpc_port, http2.grpc_head(f"/{SERVICE}/ModelInfer"), body)
    assert got.reset is not None or got.grpc_status != 0, (got.head, got.trailers)
    if body.startswith(b"\0\xff"):
        assert got.grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], (got.head, got.trailers)


def test_no_message_at_all(server):
    got = http2.exchange(server.grpc_port, http2.grpc_head(f"/{SERVICE}/ModelInfer"))
    assert got.reset is not None or got.grpc_status != 0


# --- Size and compression ----------------------------------------------------------------------------------------


def test_messages_of_60_mb(server):
    x = np.arange(15_000_000, dtype=np.float32).reshape(1, -1)
    reply = asking.ask_raw(server, {"model": "identity_fp32", "inputs": [BigTensor("input", x)]})
    assert reply.kind is None, reply
    reference.same(reply.outputs["output"], x, 0, 0)


def test_messages_over_the_limit(server):
    x = np.zeros((1, 17_000_000), np.float32)  # 68 MB; the limit is 64 MiB, 67.1 MB
    reply = asking.ask_raw(server, {"model": "identity_fp32", "inputs": [BigTensor("input", x)]})
    assert reply.kind == "too_large" and reply.message, reply


class BigTensor(dict):
    """A tensor of a question that keeps its array, since a list of so many numbers would take seconds."""

    def __init__(self, name, array):
        super().__init__(name=name, datatype=reference.DATATYPES[array.dtype], shape=list(array.shape), data=array)


@pytest.mark.parametrize("coding", [grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression])
def test_compressed_requests(server, coding):
    x = np.zeros((1, 10_000), np.float32)
    request = asking.raw({"model": "identity_fp32", "inputs": [asking.tensor("input", x)]})
    response = server.stub.ModelInfer(request, timeout=SECONDS, compression=coding)
    assert response.raw_output_contents[0] == x.tobytes()


def test_compressed_both_ways(server):
    x = np.zeros((1, 10_000), np.float32)
    request = asking.raw({"model": "identity_fp32", "inputs": [asking.tensor("input", x)]}).SerializeToString()
    head = http2.grpc_head(f"/{SERVICE}/ModelInfer", grpc_encoding="gzip", grpc_accept_encoding="gzip")
    got = http2.exchange(server.grpc_port, head, http2.frame(gzip.compress(request), compressed=True))
    assert got.grpc_status == 0, (got.head, got.trailers)
    assert got.head[b"grpc-encoding"] == b"gzip"
    ((compressed, message),) = got.messages()
    assert compressed and len(message) < 5000
    response = service_pb2.ModelInferResponse.FromString(gzip.decompress(message))
    assert response.raw_output_contents[0] == x.tobytes()


def test_answers_are_plain_when_not_asked(server):
    got = http2.call(server.grpc_port, "ModelInfer", SMALL.SerializeToString())
    ((compressed, message),) = got.messages()
    assert not compressed
    assert service_pb2.ModelInferResponse.FromString(message).model_name == "identity_fp32"


@pytest.mark.parametrize("encoding, compressed", [("nonsense", True), ("identity", True), ("gzip", True)])
def test_compression_that_lies(server, encoding, compressed):
    """An encoding that nobody knows, a flag without an encoding, and bytes that are no gzip.

    For the last two gRPC's own table of statuses says INTERNAL, and this project's INVALID_ARGUMENT.
    """
    head = http2.grpc_head(f"/{SERVICE}/ModelInfer", grpc_encoding=encoding)
    got = http2.exchange(server.grpc_port, head, http2.frame(SMALL.SerializeToString(), compressed))
    wanted = {"nonsense": (12,), "identity": (3, 13), "gzip": (3, 13)}[encoding]
    assert got.grpc_status in wanted, (got.head, got.trailers)
    if encoding == "nonsense":
        assert b"gzip" in (got.head | got.trailers)[b"grpc-accept-encoding"]


# --- One listener for all, and promptness ------------------------------------------------------------------------


def test_grpc_on_the_http_port_and_rest_on_the_grpc_port(server):
    assert server.get("/v2/health/ready", port=server.grpc_port).status == 200
    got = http2.call(server.http_port, "ModelInfer", SMALL.SerializeToString())
    assert got.grpc_status == 0, (got.head, got.trailers)


@pytest.mark.parametrize("port", ["http_port", "grpc_port"])
def test_rest_over_http2(server, port):
    head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/v2"), (b":authority", b"localhost")]
    got = http2.exchange(getattr(server, port), head)
    assert got.head[b":status"] == b"200"
    assert b"extensions" in got.body


def test_small_calls_are_prompt(server):
    """Without TCP_NODELAY each call waits some 40 ms for a delayed acknowledgement."""
    seconds = []
    for _ in range(200):
        started = time.perf_counter()
        server.stub.ModelInfer(SMALL, timeout=SECONDS)
        seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) < 0.020, statistics.quantiles(seconds)


def test_small_streamed_calls_are_prompt(server):
    """One question at a time on one stream: small frames in both directions, where Nagle's algorithm bites most."""
    questions = queue.Queue()
    call = server.stub.ModelStreamInfer(iter(questions.get, None), timeout=60)
    seconds = []
    for _ in range(200):
        started = time.perf_counter()
        questions.put(SMALL)
        assert not next(call).error_message
        seconds.append(time.perf_counter() - started)
    questions.put(None)
    assert list(call) == []
    assert statistics.median(seconds) < 0.020, statistics.quantiles(seconds)


def test_many_calls_at_once_on_one_connection(server):
    calls = [server.stub.ModelInfer.future(SMALL, timeout=60) for _ in range(500)]
    assert all(call.result(timeout=60).outputs for call in calls)
