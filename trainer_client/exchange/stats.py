"""What scheduling cost."""

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    """What scheduling cost the training loop so far."""

    batches: int = 0
    waited_seconds: float = 0.0
    worst_wait_seconds: float = 0.0  # for one batch, the first of the process left out
    worst_age: int = 0  # see ScheduledBatch.age
    local_batches: int = 0
    outages: int = 0
    unmeasured_samples: int = 0  # a signal of them was not measured, or not finite
    passed_over: int = 0  # steps that counted as not measured, because the loop went on without their feedback
    repeated_feedback: int = 0  # steps that the service had feedback of already

    def count_batch(self, age: int, waited: float) -> None:
        """Count a batch of an age in steps that the loop waited for, in seconds."""
        if self.batches:
            self.worst_wait_seconds = max(self.worst_wait_seconds, waited)
        self.batches += 1
        self.waited_seconds += waited
        self.worst_age = max(self.worst_age, age)
