"""Which tests has the ONNX project itself for the operators of `ai.onnx.ml`? They come with the package `onnx`."""

import numpy as np
from onnx.backend.test.case import node, utils
from onnx.backend.test.case.node import ai_onnx_ml

# The project's own tolerance, where a test says nothing else.
RELATIVE, ABSOLUTE = 1e-3, 1e-7


def add_node_tests(repository):
    """Every one of them; all are of tensors."""
    # Theirs alone: the function that collects all of them draws pictures for half a minute.
    utils.import_recursive(ai_onnx_ml)
    cases = [case for case in node._NodeTestCases if case.name.startswith("test_ai_onnx_ml_")]
    assert cases, "the package keeps its tests elsewhere now"
    for case in cases:
        name = case.name.removeprefix("test_ai_onnx_ml_")
        if not repository.wants(f"onnx.{name}"):
            continue
        graph, content = case.model.graph, case.model.SerializeToString(deterministic=True)
        for number, (inputs, outputs) in enumerate(case.data_sets):
            arrays = [[np.asarray(array) for array in side] for side in (inputs, outputs)]
            asked = dict(zip([value.name for value in graph.input], arrays[0], strict=True))
            answer = dict(zip([value.name for value in graph.output], arrays[1], strict=True))
            repository.write(f"onnx.{name}", f"example_{number}", content, asked, answer,
                             case.atol or ABSOLUTE, case.rtol or RELATIVE)


PARTS = [add_node_tests]
