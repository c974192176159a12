"""DLRover, local: the next shard of 256 samples, and the report that it is done. Nothing is stored."""

import time
from multiprocessing import get_context

from benchmarks.peers.loop import answer, free_port, wait_for

G = 256
SAMPLES = 10**6


def serve(port: int) -> None:
    from dlrover.python.common.log import default_logger
    from dlrover.python.master.local_master import LocalJobMaster
    from dlrover.python.scheduler.job import LocalJobArgs

    default_logger.setLevel("ERROR")  # it would write two lines a call
    arguments = LocalJobArgs("local", "default", "test")
    arguments.initilize()
    master = LocalJobMaster(port, arguments)  # which serves as long as it is referred to
    master.prepare()
    time.sleep(10**6)


def main() -> None:
    port = free_port()
    master = get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    master.start()
    try:
        wait_for(port)
        from dlrover.python.common.log import default_logger
        from dlrover.python.elastic_agent.master_client import GrpcMasterClient

        default_logger.setLevel("ERROR")
        client = GrpcMasterClient(f"127.0.0.1:{port}", 0, "worker", 10)
        client.report_dataset_shard_params(
            batch_size=G,
            num_epochs=1000,
            dataset_size=SAMPLES,
            shuffle=True,
            num_minibatches_per_shard=1,
            dataset_name="one",
            task_type=0,
            storage_type="",
        )

        def call() -> None:
            _, task = client.get_task("one")
            client.report_task_result("one", task.task_id, "")

        answer(call)
    finally:
        master.kill()


if __name__ == "__main__":
    main()
