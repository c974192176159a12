"""Gymnasium environments in which an episode is a training run: `import envs` registers them."""

import gymnasium

gymnasium.register(
    "BalanceScheduling-v0",
    entry_point="envs.scheduling:BalanceScheduling",
    vector_entry_point="envs.scheduling:VectorBalanceScheduling",
)
gymnasium.register(
    "BalanceScheduling-Discrete-v0",
    entry_point="envs.scheduling:DiscreteBalanceScheduling",
    vector_entry_point="envs.scheduling:VectorDiscreteBalanceScheduling",
)
gymnasium.register("ServedScheduling-v0", entry_point="envs.served:ServedScheduling")
