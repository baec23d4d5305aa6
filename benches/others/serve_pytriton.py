"""How does PyTriton serve a model? Triton's own HTTP server and batcher; the run is Python's, behind a socket.

This is not Triton with its backend for ONNX Runtime, which no package of PyPI has.
"""

import os

import numpy as np
import openinference
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

session = openinference.session()


def tensor(value):
    axes = tuple(axis if isinstance(axis, int) else -1 for axis in value.shape[1:])
    return Tensor(name=value.name, dtype=openinference.KINDS[value.type][1], shape=axes or (1,))


@batch
def infer(**inputs):
    tensors = zip(session.get_outputs(), session.run(None, inputs))
    # Every tensor has an axis besides the batch's.
    return {value.name: np.reshape(array, (len(array), -1)) for value, array in tensors}


if __name__ == "__main__":
    http, grpc, metrics = (int(port) for port in os.environ["BENCH_PORTS"].split(","))
    config = TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics, http_address="127.0.0.1")
    with Triton(config=config) as triton:
        triton.bind(
            model_name=openinference.NAME,
            infer_func=infer,
            inputs=[tensor(value) for value in session.get_inputs()],
            outputs=[tensor(value) for value in session.get_outputs()],
            config=ModelConfig(max_batch_size=openinference.ROWS_MAX, batcher=DynamicBatcher()),
        )
        triton.serve()
