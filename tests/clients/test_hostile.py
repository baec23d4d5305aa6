"""Does a client that means harm cost more than its own connection?"""

import pathlib
import resource
import socket
import struct
import time

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import numpy as np
import pytest
from hpack import Decoder, Encoder
from tritonclient.grpc import service_pb2

import http2
import serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def flood(port, frames, seconds_max=20):
    """Sends frames until the server has had enough, and gives the code of its GOAWAY; None where it just closed."""
    with socket.create_connection(("127.0.0.1", port), seconds_max) as connection:
        received = b""
        try:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
            for piece in frames:
                connection.sendall(piece)
        except OSError:
            pass  # the server hung up: what it said before may still be read
        connection.settimeout(seconds_max)
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, payload in parse(received)[0] if kind == GOAWAY]
    return codes[-1] if codes else None


def parse(received):
    """The whole frames in what came, each as (kind, flags, payload), and the rest."""
    frames, at = [], 0
    while at + 9 <= len(received):
        end = at + 9 + int.from_bytes(received[at:at + 3], "big")
        if end > len(received):
            break
        frames.append((received[at + 3], received[at + 4], received[at + 9:end]))
        at = end
    return frames, received[at:]


def grpc_headers(method="ModelInfer"):
    return Encoder().encode(http2.grpc_head(f"/inference.GRPCInferenceService/{method}"), huffman=False)


@pytest.fixture
def still_answers(small_server):
    yield
    assert small_server.get("/v2/health/ready").status == 200
    serving.until(lambda: connections(small_server) <= 1, "the connections to be gone")


def connections(server):
    lines = server.get("/metrics", port=server.admin_port).body.decode().splitlines()
    return int(next(line for line in lines if line.startswith("tiltyard_connections ")).split()[1])


def test_rapid_reset(small_server, still_answers):
    """CVE-2023-44487: streams opened and reset at once, as fast as they can be written."""
    head, reset = grpc_headers(), struct.pack(">I", 8)
    pairs = [frame(HEADERS, END_HEADERS, stream, head) + frame(RESET, 0, stream, reset) for stream in range(1, 40_001, 2)]
    code = flood(small_server.grpc_port, (b"".join(pairs[at:at + 500]) for at in range(0, len(pairs), 500)))
    assert code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


def test_resets_that_are_provoked(small_server, still_answers):
    """CVE-2025-8671: frames that are wrong make the server reset streams by itself."""
    head = grpc_headers()
    wrong = struct.pack(">I", 0x7FFF_FFFF)  # more room than a stream can have
    pairs = [frame(HEADERS, END_HEADERS, stream, head) + frame(8, 0, stream, wrong) for stream in range(1, 40_001, 2)]
    code = flood(small_server.grpc_port, (b"".join(pairs[at:at + 500]) for at in range(0, len(pairs), 500)))
    assert code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


def test_headers_without_end(small_server, still_answers):
    """CVE-2024-27316: a head that goes on in CONTINUATION frames for ever."""
    piece = Encoder().encode([(b"x-more", b"y" * 4000)], huffman=False)
    def frames():
        yield frame(HEADERS, 0, 1, grpc_headers())
        for _ in range(10_000):
            yield frame(CONTINUATION, 0, 1, piece)
    started = time.monotonic()
    flood(small_server.grpc_port, frames())
    assert time.monotonic() - started < 10


def test_empty_continuations_without_end(small_server, still_answers):
    def frames():
        yield frame(HEADERS, 0, 1, grpc_headers())
        for _ in range(200):
            yield frame(CONTINUATION, 0, 1, b"") * 500
    assert flood(small_server.grpc_port, frames()) is not None


@pytest.mark.parametrize("headers", [[("x", "y" * 100_000)], [(f"x-{number}", "y") for number in range(300)]])
def test_heads_that_are_too_large(small_server, still_answers, headers):
    answer = small_server.raw(
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"
        + b"".join(f"{name}: {value}\r\n".encode() for name, value in headers) + b"\r\n")
    assert answer is None or answer.status == 431


def test_a_large_head_over_http2(small_server, still_answers):
    head = http2.grpc_head("/inference.GRPCInferenceService/ServerLive")
    answer = http2.exchange(small_server.grpc_port, head + [(f"x-{number}".encode(), b"y" * 1000) for number in range(80)])
    assert answer.reset is not None or answer.head[b":status"] == b"431"


def test_pings_and_settings_that_nobody_reads(small_server, still_answers):
    """What the server would have to say must not pile up."""
    with socket.create_connection(("127.0.0.1", small_server.grpc_port), 20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        sent, block = 0, (frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 0, 0, b"")) * 1000
        try:
            while sent < 200 << 20:
                sent += connection.send(block)
        except OSError:
            pass  # the server reads no more, or has closed
        assert sent < 200 << 20


def test_streams_are_bounded(small_server, still_answers):
    """More open streams than are allowed are refused one by one; the others are answered."""
    with socket.create_connection(("127.0.0.1", small_server.grpc_port), 20) as connection:
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        protocol.initiate_connection()
        connection.sendall(protocol.data_to_send())
        limit = None
        while limit is None:
            for event in protocol.receive_data(connection.recv(65536)):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    changed = event.changed_settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
                    limit = changed and changed.new_value
        assert limit == 1024


def test_a_message_of_nothing_but_parts(server, still_serves):
    """Two bytes on the wire and hundreds in memory: refused before any is made."""
    request = service_pb2.ModelInferRequest(model_name="two_in_two_out").SerializeToString() + b"\x2a\x00" * (10 << 20)
    before = resident_kb(server)
    call = server.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=30)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert resident_kb(server) - before < 200_000


def resident_kb(server):
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_as_many_files_as_connections_take(tmp_path):
    """Shells and service managers grant a thousand; the server asks for what connections_max takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        (tmp_path / "models").mkdir()
        with serving.Server(tmp_path / "models", tmp_path, "--connections-max", "1000") as server:
            limits = pathlib.Path(f"/proc/{server.process.pid}/limits").read_text()
            granted = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max open files"))
            assert granted == "unlimited" or int(granted) >= min(2024, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- Connections that are old ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ageing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ageing")
    models = serving.link_models(folder / "models", serving.FIXTURES / "identity_fp32")
    with serving.Server(models, folder, "--connection-age-max", "2s") as made:
        yield made


def test_an_old_http2_connection_is_told_politely(ageing):
    decoder = Decoder()
    with socket.create_connection(("127.0.0.1", ageing.grpc_port), 20) as connection:
        # A request that is under way when the time is over is still answered.
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, grpc_headers("ServerLive")))
        codes, said, received = [], {}, b""
        while piece := connection.recv(65536):
            received += piece
            frames, received = parse(received)
            for kind, flags, payload in frames:
                if kind == GOAWAY:
                    codes.append(int.from_bytes(payload[4:8], "big"))
                    if len(codes) == 1:
                        connection.sendall(frame(DATA, END_STREAM, 1, http2.frame(b"")))
                elif kind == PING and not flags:
                    connection.sendall(frame(PING, ACK, 0, payload))
                elif kind == HEADERS:
                    said |= dict(decoder.decode(payload))
        assert codes and set(codes) == {h2.errors.ErrorCodes.NO_ERROR} and said["grpc-status"] == "0"


def test_grpc_clients_do_not_notice_that_connections_age(ageing):
    request = service_pb2.ModelInferRequest(model_name="identity_fp32")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(np.ones(4, np.float32).tobytes())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        ageing.stub.ModelInfer(request, timeout=10)


def test_an_old_http1_connection_is_closed(ageing):
    with socket.create_connection(("127.0.0.1", ageing.http_port), 20) as connection:
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert serving.read_answer(connection).status == 200
        assert connection.recv(1) == b""
