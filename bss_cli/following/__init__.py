"""The commands that follow a job as it runs: `bss watch`, and `bss track` into a tracker, one module each."""
