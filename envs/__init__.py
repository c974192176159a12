"""Gymnasium environments in which an episode is a training run: `import envs` registers them."""

import gymnasium

gymnasium.register("BalanceScheduling-v0", entry_point="envs.scheduling:BalanceScheduling")
gymnasium.register("BalanceScheduling-Discrete-v0", entry_point="envs.scheduling:DiscreteBalanceScheduling")
gymnasium.register("ServedScheduling-v0", entry_point="envs.served:ServedScheduling")
