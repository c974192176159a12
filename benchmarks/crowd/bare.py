"""An application that answers the hot call with as many bytes, and neither draws nor stores anything."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response

from bss_service.protocol import frames
from bss_service.protocol.training import Batches, StepsAnswer


@contextmanager
def bare_service(batch_size: int) -> Iterator[str]:
    """Its address; it runs in a process of its own, under the service's server."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, batch_size), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.kill()
        process.join()


def _serve(pipe: Connection, batch_size: int) -> None:
    one = np.zeros(1, dtype=np.int64)
    batches = Batches(
        start=0,
        indices=np.zeros((1, batch_size), dtype=np.int64),
        probabilities=np.zeros((1, batch_size), dtype=np.float32),
        policy_version=one,
        epoch=one,
        scored_until=one,
    )
    answer = StepsAnswer(feedback=["applied"], batches=batches).to_frame()
    app = FastAPI()

    @app.post("/v1/jobs/{job}/steps")
    async def steps(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type=frames.CONTENT_TYPE)

    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
