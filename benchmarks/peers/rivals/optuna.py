"""Optuna's storage over gRPC, above SQLite: ask for a trial of one number, and tell its value."""

import tempfile
from multiprocessing import get_context

from benchmarks.peers.loop import answer, free_port, wait_for


def serve(port: int, url: str) -> None:
    import optuna

    optuna.storages.run_grpc_proxy_server(optuna.storages.RDBStorage(url), host="127.0.0.1", port=port)


def main() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = get_context("spawn").Process(target=serve, args=(port, f"sqlite:///{folder}/optuna.db"), daemon=True)
        server.start()
        try:
            wait_for(port)
            storage = optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port)
            study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))

            def call() -> None:
                trial = study.ask()
                study.tell(trial, trial.suggest_float("x", 0, 1))

            answer(call)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
