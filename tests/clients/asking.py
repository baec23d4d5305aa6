"""How is one question asked in each of the four forms: JSON, binary REST, raw gRPC and typed gRPC?

A question is data: {"model", "version"?, "id"?, "parameters"?, "outputs"?: [names], "inputs": [{"name", "datatype",
"shape", "data"}]}. Its data is written as the datatype says, whether or not it is what the shape promises. Every form
gives a `Reply`: an answer, or an error's kind and message.
"""

import json
import struct

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

import reference
import serving

# The closed set of errors, and how each protocol says it.
KINDS = {
    "invalid": (400, grpc.StatusCode.INVALID_ARGUMENT), "unauthenticated": (401, grpc.StatusCode.UNAUTHENTICATED),
    "forbidden": (403, grpc.StatusCode.PERMISSION_DENIED), "not_found": (404, grpc.StatusCode.NOT_FOUND),
    "too_large": (413, grpc.StatusCode.RESOURCE_EXHAUSTED), "overloaded": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "not_ready": (503, grpc.StatusCode.UNAVAILABLE), "deadline": (504, grpc.StatusCode.DEADLINE_EXCEEDED),
    "cancelled": (499, grpc.StatusCode.CANCELLED), "engine": (500, grpc.StatusCode.INTERNAL),
    "unsupported": (501, grpc.StatusCode.UNIMPLEMENTED),
}
TYPED_FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}


class Reply:
    """What came back, in the same words for every form."""

    def __init__(self, kind=None, message=None, names=None, outputs=None):
        self.kind, self.message, self.names, self.outputs = kind, message, names, outputs

    def __repr__(self):
        return f"<{self.kind}: {self.message}>" if self.kind else f"<{self.names}: {self.outputs}>"


def tensor(name, array):
    """A tensor of a question, from an array."""
    data = array.ravel().tolist()
    if array.dtype == object:
        data = [item.decode("utf-8") for item in data]
    return {"name": name, "datatype": reference.DATATYPES[array.dtype], "shape": list(array.shape), "data": data}


def data_bytes(datatype, data):
    """A flat list as the protocol's raw bytes."""
    if datatype == "BYTES":
        texts = [item.encode() if isinstance(item, str) else item for item in data]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(data, reference.NUMPY[datatype]).tobytes()


def from_bytes(datatype, shape, content):
    """The array that raw bytes stand for."""
    if datatype != "BYTES":
        return np.frombuffer(content, reference.NUMPY[datatype]).reshape(shape)
    texts, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        texts.append(content[at + 4: at + 4 + length])
        at += 4 + length
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)


# --- The forms ---------------------------------------------------------------------------------------------------


def rest_path(question):
    version = f"/versions/{question['version']}" if question.get("version") else ""
    return f"/v2/models/{question['model']}{version}/infer"


def rest_body(question):
    """All of the body but its inputs."""
    body = {key: question[key] for key in ("id", "parameters") if key in question}
    if "outputs" in question:
        body["outputs"] = [{"name": name} for name in question["outputs"]]
    return body


def ask_json(server, question):
    body = rest_body(question) | {"inputs": question["inputs"]}
    return rest_reply(server.post(rest_path(question), body))


def ask_binary(server, question):
    body, blobs = rest_body(question) | {"inputs": []}, []
    body["parameters"] = body.get("parameters", {}) | {"binary_data_output": True}
    for item in question["inputs"]:
        blobs.append(data_bytes(item["datatype"], item["data"]))
        kept = {key: value for key, value in item.items() if key != "data"}
        body["inputs"].append(kept | {"parameters": {"binary_data_size": len(blobs[-1])}})
    return rest_reply(post_binary(server, rest_path(question), body, b"".join(blobs)))


def post_binary(server, path, body, blob, header_length=None):
    head = json.dumps(body).encode()
    length = len(head) if header_length is None else header_length
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    return server.post(path, head + blob, headers)


def rest_reply(answer):
    if answer.status != 200:
        kinds = [kind for kind, (status, _) in KINDS.items() if status == answer.status]
        assert kinds, f"a status outside the closed set: {answer}"
        return Reply(kinds[0], answer.error())
    length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    body, at, outputs = json.loads(answer.body[:length]), length, {}
    for item in body["outputs"]:
        size = item.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[item["name"]] = reference.array_of(item)
        else:
            outputs[item["name"]] = from_bytes(item["datatype"], item["shape"], answer.body[at:at + size])
            at += size
    assert at == len(answer.body)
    return Reply(names=(body["model_name"], body["model_version"], body.get("id", "")), outputs=outputs)


def message(question, fill):
    """The question as a protobuf message; `fill` puts an input's data into it."""
    made = service_pb2.ModelInferRequest(
        model_name=question["model"], model_version=question.get("version", ""), id=question.get("id", ""))
    for name, value in question.get("parameters", {}).items():
        field = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(made.parameters[name], field, value)
    for name in question.get("outputs", []):
        made.outputs.add(name=name)
    for item in question["inputs"]:
        fill(made, made.inputs.add(name=item["name"], datatype=item["datatype"], shape=item["shape"]), item)
    return made


def raw(question):
    """The question as a message with raw contents."""
    return message(question, lambda made, _, item: made.raw_input_contents.append(
        data_bytes(item["datatype"], item["data"])))


def typed(question):
    """The question as a message with typed contents."""
    def fill(_, made, item):
        data = [text.encode() for text in item["data"]] if item["datatype"] == "BYTES" else item["data"]
        getattr(made.contents, TYPED_FIELDS[item["datatype"]]).extend(data)
        made.contents.SetInParent()

    return message(question, fill)


def ask_raw(server, question):
    return grpc_reply(server, raw(question))


def ask_typed(server, question):
    return grpc_reply(server, typed(question))


def grpc_reply(server, request):
    try:
        response = server.stub.ModelInfer(request, timeout=serving.ANSWER_SECONDS_MAX)
    except grpc.RpcError as error:
        kinds = [kind for kind, (_, code) in KINDS.items() if code == error.code()]
        assert kinds, f"a status outside the closed set: {error.code()}: {error.details()}"
        assert error.details(), f"{error.code()} without a message"
        # Two kinds share a code: only of one it is said when to come again.
        told = "grpc-retry-pushback-ms" in dict(error.trailing_metadata() or ())
        return Reply("overloaded" if told and "overloaded" in kinds else kinds[0], error.details())
    outputs = {}
    assert len(response.raw_output_contents) == len(response.outputs)
    for item, content in zip(response.outputs, response.raw_output_contents):
        outputs[item.name] = from_bytes(item.datatype, list(item.shape), content)
    return Reply(names=(response.model_name, response.model_version, response.id), outputs=outputs)


FORMS = {"json": ask_json, "binary": ask_binary, "raw": ask_raw, "typed": ask_typed}


def forms_for(question):
    """The forms that can say this question at all: FP16 and BF16 have no typed contents."""
    half = any(item["datatype"] in ("FP16", "BF16") for item in question["inputs"])
    return [name for name in question.get("forms", FORMS) if not (half and name == "typed")]
