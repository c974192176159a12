"""What is known of one sample."""

from bss_service.protocol.message import Message


class DrawRow(Message):
    """One time that a sample was drawn."""

    step: int
    probability: float
    policy_version: int


class SampleState(Message):
    """Why a sample is drawn as it is: what the latest interval was drawn from; null: not known by then."""

    index: int
    signals: dict[str, float | dict[str, float | None] | None]  # latest values; by head where each of them has one
    balance_score: float | None  # ŝ, moving average
    first_score: float | None
    times_measured: int
    last_measured: int | None  # step
    draws: list[DrawRow]  # the latest, newest first
