"""Train a policy by stable-baselines3's PPO, compare it with plain shuffling, and swap it into a job of the service.

    pip install '.[service,trainer,research]'

The job is that of plain_pytorch.py, while that runs or before it is run again.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from stable_baselines3 import PPO

import envs
from bss_service.core.action import Action
from envs.research.export import of_ppo
from trainer_client import SchedulerClient

STUDENTS = 8  # trained side by side
UNIFORM = Action().to_vector()  # (A,) in [-1, 1], as are all actions of the environment
# A new network acts about zero, which leaves out half of the samples. This begins near plain shuffling instead.
START = Action(share=0.9, coverage="subset", rank_by="weight").to_vector()


def train(timesteps: int) -> PPO:
    """A policy trained on the training runs of small students; a time step is an epoch of such a run."""
    students = envs.make_sb3(STUDENTS)
    model = PPO(
        "MlpPolicy",
        students,
        n_steps=min(timesteps, 512) // STUDENTS,
        policy_kwargs={"log_std_init": -1.2},  # noise of 0.3 around START
        seed=0,
        device="cpu",
    )
    with torch.no_grad():
        model.policy.action_net.bias.copy_(torch.from_numpy(START))
    model.learn(timesteps)
    students.close()
    return model


def accuracies(model: PPO | None, runs: int) -> NDArray[np.float64]:
    """Test accuracies (runs,) in percent, each at its run's best checkpoint; without a model under plain shuffling.

    The runs have the seeds of no training run, and are the same ones for every model.
    """
    students = gymnasium.make_vec("envs:BalanceScheduling-v0", num_envs=runs, judged=True)
    observations, _ = students.reset(seed=1_000_000)
    ended: dict[int, float] = {}
    while len(ended) < runs:
        actions = np.tile(UNIFORM, (runs, 1)) if model is None else model.predict(observations, deterministic=True)[0]
        observations, _, terminated, truncated, infos = students.step(actions)
        for place in np.flatnonzero(terminated | truncated):
            ended.setdefault(int(place), float(infos["test_accuracy"][place]))
    return 100 * np.array([ended[place] for place in range(runs)])


def report(trained: NDArray[np.float64], uniform: NDArray[np.float64]) -> None:
    """Say how accuracies (runs,) under the policy compare with those under plain shuffling, run by run."""
    gains = trained - uniform
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    print(f"test accuracy over {len(gains)} runs: {trained.mean():.1f} %, shuffled plainly {uniform.mean():.1f} %")
    verdict = "better" if low > 0 else "worse" if high < 0 else "not to be told from plain shuffling"
    print(f"gain {gains.mean():+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}]: {verdict}")
    print("so short a training is not expected to gain anything; `bss research train` makes a longer one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="plain", help="the job that gets the policy")
    parser.add_argument("--timesteps", type=int, default=4096, help="to train, in epochs of students")
    parser.add_argument("--runs", type=int, default=64, help="to compare on")
    args = parser.parse_args()

    torch.set_num_threads(1)  # more are no faster on students this small
    client = SchedulerClient(args.url)
    client.job(args.job)  # fails now, and not after the training, where there is none

    print(f"training on {args.timesteps} epochs of students")
    model = train(args.timesteps)
    report(accuracies(model, args.runs), accuracies(None, args.runs))

    artefact = of_ppo(model, training={"algorithm": "ppo", "timesteps": args.timesteps})
    out = Path("runs/ppo.safetensors")
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(artefact)
    uploaded = client.upload_policy(artefact)
    swapped = client.swap(args.job, "artefact", {"sha256": uploaded.sha256, "deterministic": True})
    print(f"{args.job}: policy version {swapped.policy_version}, {out}, draws from step {swapped.first_step} on")


if __name__ == "__main__":
    main()
