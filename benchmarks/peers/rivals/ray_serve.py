"""Ray Serve, JSON over HTTP: feedback for 256 samples scattered into an array, and the next 256 of a shuffle."""

import numpy as np

from benchmarks.peers.loop import answer

G = 256


def main() -> None:
    import httpx
    import ray
    from ray import serve
    from starlette.requests import Request

    @serve.deployment
    class Scheduler:
        def __init__(self) -> None:
            self.table = np.zeros(10**6, dtype=np.float32)
            self.order = np.random.default_rng(0).permutation(10**6)
            self.step = 0

        async def __call__(self, request: Request) -> dict[str, list[int]]:
            message = await request.json()
            self.table[np.array(message["indices"], dtype=np.int64)] = message["loss"]
            start = self.step * G % (10**6 - G)
            self.step += 1
            return {"indices": self.order[start : start + G].tolist()}

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    serve.run(Scheduler.bind(), logging_config={"log_level": "ERROR", "enable_access_log": False})
    batch: list[int] = []
    with httpx.Client() as http:

        def call() -> None:
            nonlocal batch
            message = {"indices": batch, "loss": [0.5] * len(batch)}
            batch = http.post("http://127.0.0.1:8000/", json=message, timeout=60).json()["indices"]

        answer(call)


if __name__ == "__main__":
    main()
