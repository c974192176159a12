"""A user's script for several processes: python -m tests.trainer_client.loops.frameworks.script HOW URL JOB FOLDER STOP

It trains from the framework's checkpoint in FOLDER, if there is one, to step STOP, and writes one there. Each process
writes FOLDER/STOP-RANK.pt: its batches, its weights, and at which steps it reported a validation. A framework is
imported where it is used: each takes seconds.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from tests.trainer_client.support.plain import BATCH, JOB, Data, Model, Run
from trainer_client import ScheduledBatchSampler, measure
from trainer_client.integrations.meshes import rank_in
from trainer_client.integrations.schedule import schedule
from trainer_client.integrations.torchtitan import ScheduledDataLoader

STEPS = 12  # of two ranks in three epochs


@dataclass
class Script:
    """What it is told, and what comes of it."""

    job: dict[str, Any]
    folder: Path
    stop: int
    batches: list[list[int]] = field(default_factory=list)
    reports: list[int] = field(default_factory=list)

    def watch(self, sampler: ScheduledBatchSampler) -> None:
        """Note what is reported."""
        report = sampler.validation

        def noted(**values: Any) -> None:
            self.reports.append(sampler.batches_trained)
            report(**values)

        sampler.validation = noted  # type: ignore[method-assign]

    def write(self, model: torch.nn.Module, rank: int | str) -> None:
        """Write what came of this process."""
        outcome = {"batches": self.batches, "reports": self.reports, "weights": model.state_dict()}
        torch.save(outcome, self.folder / f"{self.stop}-{rank}.pt")

    def loop(self, run: Run, loader: Any, sampler: ScheduledBatchSampler) -> None:
        """A loop of one's own."""
        while sampler.batches_trained < self.stop:
            for index, batch in loader:
                sampler.feedback(index, run.step(index, batch))
                if sampler.batches_trained == self.stop:
                    break
        self.batches = run.batches


def plain(script: Script) -> torch.nn.Module:
    dist.init_process_group("gloo")
    run = Run()
    model, run.model = run.model, DistributedDataParallel(run.model)
    loader, sampler = schedule(DataLoader(Data(), batch_size=BATCH), **script.job)
    with sampler:
        script.loop(run, loader, sampler)
    dist.destroy_process_group()
    return model


def on_mesh(script: Script) -> torch.nn.Module:
    """Two data-parallel ranks of two processes each, which torchtitan's trainer would give a model in pieces."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    run, checkpoint = Run(), script.folder / "dcp"
    model = run.model
    run.model = DistributedDataParallel(model, process_group=mesh.get_group("dp"))
    loader, sampler = schedule(DataLoader(Data(), batch_size=BATCH), **script.job, **rank_in(mesh, "dp"))
    dataloader = ScheduledDataLoader(loader, sampler)
    states = {"model": model.state_dict(), "dataloader": dataloader}
    resumes = checkpoint.exists()
    dist.barrier()  # the two of a rank are not held together by training, and one may write before the other has looked
    if resumes:
        dcp.load(states, checkpoint_id=checkpoint)
    batches = iter(dataloader)
    while sampler.batches_trained < script.stop:
        index, batch = next(batches)
        sampler.feedback(index, run.step(index, batch))
    dcp.save(states, checkpoint_id=checkpoint)
    script.batches = run.batches
    dataloader.close()
    assert sampler.stats.repeated_feedback == 0
    dist.destroy_process_group()
    return model


def fabric(script: Script) -> torch.nn.Module:
    from lightning.fabric import Fabric

    engine = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    engine.launch()
    run, checkpoint = Run(), script.folder / "checkpoint.pt"
    model = run.model
    run.model, run.optimiser = engine.setup(run.model, run.optimiser)
    loader, sampler = schedule(DataLoader(Data(), batch_size=BATCH), **script.job)
    loader = engine.setup_dataloaders(loader, use_distributed_sampler=False)
    with sampler:
        state = {"model": run.model, "optimiser": run.optimiser}
        if checkpoint.exists():
            sampler.load_state_dict(engine.load(checkpoint, state)["sampler"])
        script.loop(run, loader, sampler)
        engine.save(checkpoint, {**state, "sampler": sampler.state_dict()})
    return model


def accelerated(script: Script) -> torch.nn.Module:
    from accelerate import Accelerator

    from trainer_client.integrations.accelerate import schedule_prepared

    accelerator, run = Accelerator(cpu=True), Run()
    model, checkpoint = run.model, script.folder / "checkpoint"
    loader, sampler = schedule_prepared(DataLoader(Data(), batch_size=BATCH), accelerator, **script.job)
    run.model, run.optimiser = accelerator.prepare(run.model, run.optimiser)
    with sampler:
        if checkpoint.exists():
            accelerator.load_state(str(checkpoint))
        accelerator.wait_for_everyone()  # nobody writes before all have looked
        script.loop(run, loader, sampler)
        accelerator.save_state(str(checkpoint))
    accelerator.end_training()
    return model


def in_lightning(script: Script) -> torch.nn.Module:
    """By torchrun, or by Lightning, which runs this script once more for the other process."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from trainer_client.integrations.lightning import BalanceScheduling

    class Module(lightning.LightningModule):
        def __init__(self, batches: list[list[int]]) -> None:
            super().__init__()
            self.model, self.batches = Model(), batches

        def training_step(self, batch: Any, _: int) -> dict[str, Any]:
            index, inputs = batch
            outputs = self.model(**inputs)
            self.batches.append(index.tolist())
            return {"loss": outputs["loss"], "measured": measure([], outputs["logits"], inputs["labels"])}

        def validation_step(self, batch: Any, _: int) -> dict[str, Any]:
            return {"judged": ([], self.model(**batch)["logits"], batch["labels"])}

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    processes = None if "RANK" in os.environ else 2
    loader, sampler = schedule(DataLoader(Data(), batch_size=BATCH), world_size=processes, **script.job)
    script.watch(sampler)
    module, checkpoint = Module(script.batches), script.folder / "last.ckpt"
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            BalanceScheduling(sampler),
            ModelCheckpoint(script.folder, save_last=True, every_n_train_steps=script.stop, save_top_k=0),
        ],
        max_steps=script.stop,
    )
    with sampler:
        resumed = checkpoint if checkpoint.exists() else None
        trainer.fit(module, loader, DataLoader(Data(), batch_size=16), ckpt_path=resumed)
    return module.model


def in_transformers(script: Script) -> torch.nn.Module:
    from transformers import TrainingArguments

    from trainer_client.integrations.transformers import INDEX, BalanceScheduling

    class Trainer(BalanceScheduling):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if INDEX in inputs:
                script.batches.append(inputs[INDEX].tolist())
                assert self.sampler is not None
                if len(script.batches) == 1:
                    script.watch(self.sampler)
            return super().compute_loss(model, inputs, *args, **kwargs)

    arguments = TrainingArguments(
        output_dir=str(script.folder / "hf"),
        use_cpu=True,
        ddp_backend="gloo",
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=BATCH,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=script.stop,
        max_steps=script.stop,
    )
    model = Model()
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Data(),
        eval_dataset=Data(),
        compute_metrics=lambda judged: {"accuracy": float((judged.predictions.argmax(1) == judged.label_ids).mean())},
        scheduling=script.job,
    )
    trainer.train(resume_from_checkpoint=any((script.folder / "hf").glob("checkpoint-*")))
    assert trainer.sampler is not None
    trainer.sampler.close()
    return model


def in_trl(script: Script) -> torch.nn.Module:
    """Each process completes its own prompts, four at once over two of them."""
    from tests.trainer_client.loops.frameworks.test_trl import CURIOUS, trainer_of

    job = {"name": script.job["name"], "policy": CURIOUS}
    trainer, rewards = trainer_of(
        script.job["url"],
        script.folder / "trl",
        job,
        ddp_backend="gloo",
        per_device_train_batch_size=2,
        lr_scheduler_type="constant",
        max_steps=script.stop,
        save_strategy="steps",
        save_steps=script.stop,
    )
    trainer.train(resume_from_checkpoint=any((script.folder / "trl").glob("checkpoint-*")))
    script.batches = rewards.came
    trainer.sampler.close()
    model: torch.nn.Module = trainer.model
    return model


def in_ray(script: Script) -> None:
    """A local cluster, whose workers are the processes."""
    import ray
    from ray.train import Checkpoint, RunConfig, ScalingConfig, get_checkpoint, get_context, report
    from ray.train.torch import TorchConfig, TorchTrainer, prepare_data_loader, prepare_model

    def loop() -> None:
        run = Run()
        model, run.model = run.model, prepare_model(run.model)
        loader, sampler = schedule(DataLoader(Data(), batch_size=BATCH), **script.job)
        loader = prepare_data_loader(loader, add_dist_sampler=False)
        if checkpoint := get_checkpoint():
            with checkpoint.as_directory() as folder:
                state = torch.load(Path(folder) / "state.pt", weights_only=True)
                run.load_state_dict(state["run"])
                sampler.load_state_dict(state["sampler"])
        with sampler:
            script.loop(run, loader, sampler)
            state = {"run": run.state_dict(), "sampler": sampler.state_dict()}
        rank = get_context().get_world_rank()
        folder = script.folder / f"ray-{script.stop}-{rank}"
        folder.mkdir()
        torch.save(state, folder / "state.pt")
        script.write(model, rank)
        report({}, checkpoint=Checkpoint.from_directory(str(folder)) if rank == 0 else None)

    ray.init(num_cpus=2, include_dashboard=False)
    where = RunConfig(name="run", storage_path=str(script.folder / "storage"))
    TorchTrainer(
        loop, torch_config=TorchConfig("gloo"), scaling_config=ScalingConfig(num_workers=2), run_config=where
    ).fit()
    ray.shutdown()


HOW: dict[str, Callable[[Script], torch.nn.Module | None]] = {
    "plain": plain,
    "mesh": on_mesh,
    "fabric": fabric,
    "accelerate": accelerated,
    "lightning": in_lightning,
    "transformers": in_transformers,
    "trl": in_trl,
    "ray": in_ray,
}


def main() -> None:
    how, url, job, folder, stop = sys.argv[1:]
    script = Script({"name": job, "url": url, **JOB}, Path(folder), int(stop))
    if model := HOW[how](script):  # Ray's workers have written what came of them
        script.write(model, os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0"))  # Lightning's have no RANK


if __name__ == "__main__":
    main()
