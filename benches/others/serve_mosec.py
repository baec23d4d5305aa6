"""How does mosec serve a model? python serve_mosec.py --port PORT, one worker, batches of up to 64 within 1 ms."""

import openinference
from mosec import Runtime, Server, Worker


class Infer(Worker):
    def __init__(self):
        super().__init__()
        self.session = openinference.session()
        self.output_names = [output.name for output in self.session.get_outputs()]

    def deserialize(self, data):
        return openinference.read(data)

    def forward(self, data):
        return openinference.run_together(self.session, data)

    def serialize(self, data):
        return openinference.write(self.output_names, data)


if __name__ == "__main__":
    server = Server()
    runtime = Runtime(Infer, num=1, max_batch_size=openinference.ROWS_MAX, max_wait_time=1)
    server.register_runtime({f"/v2/models/{openinference.NAME}/infer": [runtime]})
    server.run()
