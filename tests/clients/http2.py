"""What does the server say, frame by frame, over HTTP/2? A client too plain to hide anything, unlike grpcio."""

import socket
import struct
import time

import h2.config
import h2.connection
import h2.events

import serving


class Exchange:
    """All that came back on one stream."""

    def __init__(self):
        self.head, self.trailers, self.body = {}, {}, b""
        self.head_ended_stream, self.reset = False, None

    @property
    def grpc_status(self):
        """The call's status, from the trailers or, where there is no message, from the head."""
        said = self.trailers if b"grpc-status" in self.trailers else self.head
        return int(said[b"grpc-status"])

    @property
    def grpc_message(self):
        return (self.trailers if self.trailers else self.head).get(b"grpc-message", b"")

    def messages(self):
        """The messages in the body: (compressed?, bytes)."""
        found, at = [], 0
        while at < len(self.body):
            compressed, length = struct.unpack_from(">BI", self.body, at)
            found.append((bool(compressed), self.body[at + 5: at + 5 + length]))
            at += 5 + length
        return found


def frame(message, compressed=False):
    """A message with gRPC's five bytes before it."""
    return struct.pack(">BI", compressed, len(message)) + message


def exchange(port, headers, body=b"", seconds_max=serving.ANSWER_SECONDS_MAX):
    """One request on a connection of its own, read to the end of its stream."""
    with socket.create_connection(("127.0.0.1", port), seconds_max) as connection:
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        protocol.initiate_connection()
        protocol.send_headers(1, headers, end_stream=not body)
        if body:
            protocol.send_data(1, body, end_stream=True)  # the tests' bodies fit the first window
        connection.sendall(protocol.data_to_send())
        result, deadline = Exchange(), time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            received = connection.recv(65536)
            assert received, "the connection was closed before the stream's end"
            for event in protocol.receive_data(received):
                if take(event, protocol, result):
                    return result
            connection.sendall(protocol.data_to_send())
        raise AssertionError(f"no end of the stream in {seconds_max} s")


def take(event, protocol, result):
    """Keeps what an event says; true at the stream's end."""
    if isinstance(event, h2.events.ResponseReceived):
        result.head = dict(event.headers)
        result.head_ended_stream = event.stream_ended is not None
    elif isinstance(event, h2.events.TrailersReceived):
        result.trailers = dict(event.headers)
    elif isinstance(event, h2.events.DataReceived):
        result.body += event.data
        protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
        result.reset = event.error_code
        return True
    return isinstance(event, h2.events.StreamEnded)


def call(port, method, message, **headers):
    """A unary gRPC call, frame by frame; underscores in names of headers stand for hyphens."""
    return exchange(port, grpc_head(f"/inference.GRPCInferenceService/{method}", **headers), frame(message))


def grpc_head(path, **headers):
    return [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    ] + [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
