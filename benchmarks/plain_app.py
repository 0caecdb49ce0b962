"""The peer of benchmarks/http.py: the float twin behind FastAPI, as one would write it.

uvicorn with the same event loop and parser as tritserve, npy in and out, torch in the thread pool.
"""

import io
import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.peers import torch_eager
from tritserve.model.config import ModelConfig


def create_app(threads: int, **config: int) -> FastAPI:
    run = torch_eager(ModelConfig(**config), threads)
    app = FastAPI()

    @app.post("/embed")
    async def embed(request: Request) -> Response:
        batch = np.load(io.BytesIO(await request.body()), allow_pickle=False)
        embeddings = await run_in_threadpool(run, batch)
        stream = io.BytesIO()
        np.save(stream, embeddings)
        return Response(stream.getvalue(), media_type="application/x-npy")

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    return app


if __name__ == "__main__":
    app = create_app(
        int(sys.argv[2]), embed_dim=287, hidden_size=256, num_heads=4, num_layers=4, window_size=60
    )
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
