"""How does MLServer serve a model? mlserver start FOLDER, with this runtime and batches of up to 64 within 1 ms."""

import openinference
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    async def load(self):
        self.session = openinference.session()
        self.output_names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload):
        tensors = self.session.run(None, {each.name: NumpyCodec.decode_input(each) for each in payload.inputs})
        outputs = [NumpyCodec.encode_output(name, tensor) for name, tensor in zip(self.output_names, tensors)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
