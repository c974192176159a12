"""A job's spec as people write it: in Python, and in the files of their experiments."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pydantic
import pytest

from bss_service.core.signals import LOSS, Signal
from bss_service.protocol.jobs import JobSpec, RewardSpec
from bss_service.protocol.policies import PolicySpec

FIELDS: dict[str, Any] = {"name": "job", "samples": 100, "modalities": ["audio", "video"], "batch_size": 4}
SPEC = JobSpec(**FIELDS)


def spec(**fields: Any) -> JobSpec:
    return JobSpec(**{**FIELDS, **fields})


def test_a_policy_may_be_named() -> None:
    assert spec(policy="balance").policy == PolicySpec(name="balance")


def test_a_policy_may_be_a_dictionary() -> None:
    policy = {"name": "fixed", "parameters": {"kappa_loss": np.float32(1.5)}}
    assert spec(policy=policy).policy == PolicySpec(name="fixed", parameters={"kappa_loss": 1.5})


def test_modalities_may_be_a_tuple() -> None:
    assert spec(modalities=("audio", "video")) == SPEC


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_integers_may_be_numpys(integer: Any) -> None:
    given = spec(samples=integer(100), batch_size=integer(4))
    assert given == SPEC
    assert type(given.samples) is int


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int64, int])
def test_numbers_may_be_numpys(number: Any) -> None:
    assert spec(patience=number(2)).patience == 2.0


@pytest.mark.parametrize(
    "fields",
    [
        {"samples": True},
        {"samples": np.True_},
        {"samples": 100.5},
        {"samples": np.float64(100.5)},
        {"samples": "100"},
        {"patience": "2"},
        {"patience": True},
        {"modalities": "av"},
        {"policy": 3},
        {"policy": ""},
    ],
)
def test_what_only_looks_like_it_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match=next(iter(fields))):
        spec(**fields)


def test_a_policy_nested_without_end_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"deeper": nested}
    with pytest.raises(pydantic.ValidationError, match="must be nested at most 32 deep"):
        spec(policy={"name": "fixed", "parameters": nested})


@pytest.mark.parametrize("make", [lambda config: JobSpec(**config), JobSpec.model_validate])
def test_a_configuration_of_omegaconf_is_taken_as_it_is(make: Any) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    text = """
        name: job
        samples: 100
        modalities: [audio, video]
        batch_size: 4
        policy: {name: fixed, parameters: {kappa_loss: 1.5, link: linear}}
        reward: {metric: accuracy}
        patience: 2
    """
    policy = PolicySpec(name="fixed", parameters={"kappa_loss": 1.5, "link": "linear"})
    assert make(omegaconf.OmegaConf.create(text)) == spec(
        policy=policy, reward=RewardSpec(metric="accuracy"), patience=2.0
    )


def test_a_list_of_omegaconf_is_a_list() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    assert spec(modalities=omegaconf.ListConfig(["audio", "video"]), policy="uniform") == SPEC


def test_signals_are_shown_by_name_where_they_are_built_in_and_else_by_their_declaration() -> None:
    entropy = Signal("entropy", "of the output", low=0.0)
    shown = spec(signals=["loss", entropy]).model_dump()["signals"]
    declaration = {"name": "entropy", "meaning": "of the output", "low": 0.0, "high": None}
    assert shown == ["loss", declaration | {"per_head": False, "averaged": False}]
    assert spec(signals=shown).signals == [LOSS, entropy]


def test_what_is_whole_or_not_kept_is_shown_as_such() -> None:
    group = Signal("group", "of the speaker", low=0, whole=True, kept=False)
    shown = spec(signals=["loss", group]).model_dump()["signals"]
    assert shown == ["loss", asdict(group)]
    assert spec(signals=shown).signals == [LOSS, group]


def test_a_built_in_signal_may_be_explained_in_other_words_but_not_be_another() -> None:
    assert spec(signals=[replace(LOSS, meaning="cross entropy")]).signals == [LOSS]
    with pytest.raises(ValueError, match="name 'loss' is that of a built-in signal with another declaration"):
        spec(signals=[replace(LOSS, low=0.0)])
