"""How does FastAPI serve a model? uvicorn serve_fastapi:app, one worker, each request a run of its own."""

import openinference
from fastapi import FastAPI, Request, Response

app = FastAPI()
session = openinference.session()
outputs = [output.name for output in session.get_outputs()]


# In the loop itself: a pool of threads costs a small model more than its run, and a large one's run uses all cores.
@app.post(f"/v2/models/{openinference.NAME}/infer")
async def infer(request: Request):
    tensors = session.run(None, openinference.read(await request.body()))
    return Response(openinference.write(outputs, tensors), media_type="application/json")
