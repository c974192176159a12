"""What is measured where the task is not to tell one class from others."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from bss_service.core import measurement as formulas
from trainer_client import (
    ConfusionMeter,
    JobSpec,
    LabelError,
    RefusedError,
    SchedulerClient,
    measure,
    measure_binary,
    measure_losses,
    measure_multilabel,
    measure_pairs,
    measure_regression,
    measure_rewards,
    measure_tokens,
    multimodal_loss,
    signals_of,
)
from trainer_client.exchange.transfer import Transfer

G, C, T, L, D = 6, 5, 7, 4, 3
NAN = torch.nan


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heads_of(*shape: int, count: int = 3) -> list[torch.Tensor]:
    return [normal(*shape, seed=k) for k in range(count)]


LABELS = torch.arange(G) % C
TOKENS = torch.arange(G * T).reshape(G, T) % C
SEVERAL = (normal(G, L, seed=9) > 0).float()
HARD = functional.one_hot(LABELS, C).float()


def by(measuring: Any, heads: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What each way to measure says of heads that would be its own."""
    arguments: dict[Any, tuple[Any, ...]] = {
        measure: (heads_of(G, C, count=len(heads)), LABELS),
        measure_binary: (heads_of(G, count=len(heads)), LABELS % 2),
        measure_multilabel: (heads_of(G, L, count=len(heads)), SEVERAL),
        measure_tokens: (heads_of(G, T, C, count=len(heads)), TOKENS),
        measure_regression: (heads_of(G, D, count=len(heads)), normal(G, D)),
    }
    if measuring is measure_pairs:
        return measure_pairs(*heads_of(G, D, count=2))
    if measuring is measure_losses:
        return measure_losses(normal(G))
    if measuring is measure_rewards:
        return measure_rewards(normal(G * 2), 2)
    (*unimodal, joint), target = arguments[measuring]
    measured: dict[str, torch.Tensor] = measuring(unimodal, joint, target)
    return measured


WAYS = [
    measure,
    measure_binary,
    measure_multilabel,
    measure_tokens,
    measure_regression,
    measure_pairs,
    measure_losses,
    measure_rewards,
]
every_way = pytest.mark.parametrize("measuring", WAYS, ids=lambda way: way.__name__)


@every_way
@pytest.mark.parametrize("count", [1, 2, 3], ids=["joint head", "one modality", "two"])
def test_each_gives_the_signals_that_it_says(measuring: Any, count: int) -> None:
    measured = by(measuring, heads_of(G, C, count=count))
    assert set(measured) == {signal.name for signal in signals_of(measuring, unimodal_heads=count - 1)}
    width = 3 if measuring is measure_pairs else count
    for signal in signals_of(measuring, unimodal_heads=count - 1):
        values = measured[signal.name]
        assert values.dtype == torch.float32
        assert values.shape == ((G, width) if signal.per_head else (G,))
        signal.check(values.numpy())


def test_of_another_function_nobody_knows() -> None:
    with pytest.raises(ValueError, match=r"measuring must be one of measure, .*, measure_rewards, got 'print'"):
        signals_of(print)


@every_way
@pytest.mark.parametrize("policy", ["uniform", "self_paced", "balance", "evidence"])
def test_a_policy_that_needs_more_is_refused_by_name(
    client: SchedulerClient, job_name: str, measuring: Any, policy: str
) -> None:
    signals = signals_of(measuring, unimodal_heads=2)
    lacking = {"balance": {"similarity"}, "evidence": {"loss"}}.get(policy, set()) - {signal.name for signal in signals}
    spec = JobSpec(
        name=job_name, samples=64, modalities=["a", "b"], batch_size=8, policy=policy, signals=signals, weighted=True
    )
    if not lacking:
        assert client.create_job(spec).spec.policy.name == policy
        return
    with pytest.raises(RefusedError, match=f"policy.*{policy}.*{'|'.join(sorted(lacking))}"):
        client.create_job(spec)


# Rewards.


def test_rewards_are_known_by_their_mean_and_by_how_much_they_differ() -> None:
    measured = measure_rewards(torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 0, NAN, 2, 4, NAN]), 4)
    assert measured["reward"].tolist() == [0.75, 0.25, 3.0]
    assert measured["reward_variance"].tolist() == [0.1875, 0.1875, 1.0]  # p(1 − p) of the first two
    assert measured["loss"].tolist() == [-0.75, -0.25, -3.0]
    assert measured["similarity"][2] == 0.5
    alike = measure_rewards(torch.tensor([0.3, 0.3]), 2)["similarity"]
    assert alike.item() == 1
    assert measure_rewards(torch.full((2,), NAN), 2)["reward"].isnan().all()


@pytest.mark.parametrize(
    ("rewards", "completions", "error"),
    [([1.0, 2.0], 2, TypeError), (torch.zeros(3), 2, ValueError), (torch.zeros(2, 2), 2, ValueError)],
)
def test_rewards_of_another_form_are_refused(rewards: Any, completions: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="rewards must be"):
        measure_rewards(rewards, completions)


# Classes.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "shares"])
def test_soft_and_smoothed_labels_have_torchs_losses(smoothing: float, soft: bool) -> None:
    *unimodal, joint = heads_of(G, C)
    labels = normal(G, C, seed=5).softmax(1) if soft else LABELS

    def entropy(logits: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    expected = 0.5 * (entropy(joint) + sum(entropy(logits) for logits in unimodal))
    measured = measure(unimodal, joint, labels, label_smoothing=smoothing)
    torch.testing.assert_close(measured["loss"], expected)
    torch.testing.assert_close(multimodal_loss(unimodal, joint, labels, label_smoothing=smoothing), expected)


def test_shares_that_are_certain_are_classes() -> None:
    *unimodal, joint = heads_of(G, C)
    soft, hard = measure(unimodal, joint, HARD), measure(unimodal, joint, LABELS)
    assert set(soft) == {"loss", "probability", "predicted_class", "similarity"}
    for name, values in soft.items():
        torch.testing.assert_close(values, hard[name])


def test_a_row_of_nan_is_no_label_and_one_of_another_sum_a_wrong_one() -> None:
    *unimodal, joint = heads_of(G, C)
    labels = HARD.clone()
    labels[2] = NAN
    joint.requires_grad_()
    loss = multimodal_loss(unimodal, joint, labels)
    loss.sum().backward()
    assert joint.grad is not None
    assert joint.grad.isfinite().all() and (joint.grad[2] == 0).all()
    assert measure(unimodal, joint, labels)["loss"].isnan().tolist() == [row == 2 for row in range(G)]
    with pytest.raises(ValueError, match=r"soft labels have no one true class; .* labels.argmax\(1\)"):
        ConfusionMeter().add(unimodal, joint.detach(), labels)
    labels[4] = 1.0
    with pytest.raises(LabelError, match=r"labels must be rows of shares of sum 1, .* got .* in row 4"):
        measure(unimodal, joint, labels)


# Yes and no.


def test_a_logit_that_stands_alone_is_that_of_two_classes() -> None:
    *unimodal, joint = heads_of(G, 1)
    labels = LABELS % 2
    measured = measure_binary(unimodal, joint[:, 0][:, None], labels.float())
    expected = measure([torch.cat([-z / 2, z / 2], 1) for z in unimodal], torch.cat([-joint / 2, joint / 2], 1), labels)
    for name, values in expected.items():
        torch.testing.assert_close(measured[name], values)
    entropy = functional.binary_cross_entropy_with_logits(joint[:, 0], labels.float(), reduction="none")
    torch.testing.assert_close(measure_binary([], joint, labels)["loss"], entropy)
    with pytest.raises(ValueError, match="labels must be 0 or 1, got shares: give measure_multilabel"):
        measure_binary([], joint, labels / 2)


def test_several_labels_have_the_mean_of_those_that_are_known() -> None:
    *unimodal, joint = heads_of(G, L)
    labels = SEVERAL.clone()
    labels[0, 1] = -100
    labels[3] = -100
    measured = measure_multilabel(unimodal, joint, labels)
    entropies = torch.stack(
        [functional.binary_cross_entropy_with_logits(z, SEVERAL, reduction="none") for z in [*unimodal, joint]]
    )
    entropies[:, labels == -100] = NAN
    torch.testing.assert_close(measured["loss"], 0.5 * entropies.nanmean(2).sum(0), equal_nan=True)
    torch.testing.assert_close(measured["probability"], (-entropies).exp().nanmean(2).T, equal_nan=True)
    assert measured["similarity"].isfinite().all()
    single = measure_multilabel([z[:, :1] for z in unimodal], joint[:, :1], SEVERAL[:, :1])
    binary = measure_binary([z[:, 0] for z in unimodal], joint[:, 0], SEVERAL[:, 0])
    for name, values in single.items():
        torch.testing.assert_close(values, binary[name])
    labels[5, 2] = 1.5
    with pytest.raises(LabelError, match=r"labels must be 0 to 1, or ignore_index = -100, got 1\.5 in row 5"):
        measure_multilabel(unimodal, joint, labels)


# Tokens.


def test_a_sequence_has_the_mean_of_its_tokens_whatever_it_is_padded_to() -> None:
    logits, labels = normal(G, T, C), TOKENS.clone()
    labels[1, 4:] = -100
    labels[2] = -100
    measured = measure_tokens([], logits, labels)
    entropies = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    entropies[labels == -100] = NAN
    torch.testing.assert_close(measured["loss"], entropies.nanmean(1), equal_nan=True)
    torch.testing.assert_close(measured["probability"][:, 0], (-entropies).exp().nanmean(1), equal_nan=True)
    short = measure_tokens([], logits[:2, :4], labels[:2, :4])
    torch.testing.assert_close(short["loss"][1], measured["loss"][1])


def test_causal_models_predict_the_next_token() -> None:
    logits = heads_of(G, T, C)
    shifted = measure_tokens(logits[:2], logits[2], TOKENS, shift=True)
    expected = measure_tokens([x[:, :-1] for x in logits[:2]], logits[2][:, :-1], TOKENS[:, 1:])
    for name, values in expected.items():
        torch.testing.assert_close(shifted[name], values)
    with pytest.raises(LabelError, match="labels must be 0 to 4, or ignore_index = -100, got 9 in row 1"):
        measure_tokens([], logits[0], TOKENS.where(torch.arange(G)[:, None] != 1, 9))
    assert measure_tokens([], logits[0][:0], TOKENS[:0])["loss"].shape == (0,)


def test_one_token_is_one_class() -> None:
    *unimodal, joint = heads_of(G, C)
    measured = measure_tokens([x[:, None] for x in unimodal], joint[:, None], LABELS[:, None])
    expected = measure(unimodal, joint, LABELS)
    for name, values in measured.items():
        torch.testing.assert_close(values, expected[name])


# Numbers.


def test_errors_are_in_units_of_the_scale_over_the_dimensions_that_are_known() -> None:
    *unimodal, joint = heads_of(G, D)
    targets, scale = normal(G, D, seed=7), torch.tensor([0.5, 1.0, 20.0])
    targets[1, 0] = NAN
    targets[4] = NAN
    measured = measure_regression(unimodal, joint, targets, scale=scale)
    errors = torch.stack([(((x - targets) / scale) ** 2).nanmean(1) for x in [*unimodal, joint]])
    torch.testing.assert_close(measured["loss"], 0.5 * errors.sum(0), equal_nan=True)
    apart = (((unimodal[0] - unimodal[1]) / scale) ** 2).mean(1)
    torch.testing.assert_close(measured["similarity"], torch.exp(-apart / 2))
    assert measure_regression(unimodal[:1] * 2, joint, targets)["similarity"].tolist() == [1.0] * G
    alone = measure_regression([], joint[:, 0], targets[:, 1], scale=2.0)
    torch.testing.assert_close(alone["loss"], ((joint[:, 0] - targets[:, 1]) / 2) ** 2, equal_nan=True)


def test_agreement_is_the_mean_over_pairs_in_numpy_too() -> None:
    predictions = np.random.default_rng(0).normal(size=(4, G, D))
    pairs = [(j, k) for j in range(4) for k in range(j)]
    expected = np.mean([np.exp(-((predictions[j] - predictions[k]) ** 2).mean(1) / 2) for j, k in pairs], axis=0)
    np.testing.assert_allclose(formulas.agreement(predictions, 1.0, np), expected)


# Pairs.


def test_pairs_find_each_other_by_their_cosines() -> None:
    left, right = heads_of(G, D, count=2)
    measured = measure_pairs(3 * left, right, temperature=0.2)
    logits = functional.normalize(left) @ functional.normalize(right).T / 0.2
    entropies = [functional.cross_entropy(x, torch.arange(G), reduction="none") for x in (logits, logits.T)]
    torch.testing.assert_close(measured["loss"], (entropies[0] + entropies[1]) / 2)
    torch.testing.assert_close(measured["similarity"], functional.cosine_similarity(left, right))
    torch.testing.assert_close(measured["probability"][:, :2], torch.exp(-torch.stack(entropies, 1)))
    wrong = measure_pairs(left, torch.cat([left[1:2], left[:1], left[2:]]), temperature=0.2)
    assert (wrong["similarity"] < 0.99).tolist() == [True, True, False, False, False, False]
    assert wrong["loss"][:2].min() > wrong["loss"][2:].max()


# Anything.


def test_losses_are_taken_as_they_are() -> None:
    losses = torch.tensor([0.5, NAN, 2.0], requires_grad=True)
    (name, values), *others = measure_losses(losses.half()).items()
    assert (name, values.dtype, values.requires_grad, others) == ("loss", torch.float32, False, [])
    with pytest.raises(ValueError, match=r"losses must be floating of shape \(g,\), .* reduction=\"none\""):
        measure_losses(losses.mean())


@pytest.mark.parametrize(
    ("measuring", "arguments", "sentence"),
    [
        (
            measure_binary,
            ([], normal(G, 2), LABELS),
            r"joint_logits must have shape \(g,\) or \(g, 1\)",
        ),
        (measure_binary, ([normal(G, 2)], normal(G), LABELS), r"unimodal_logits\[0\] must be floating of shape \(6,\)"),
        (measure_multilabel, ([], normal(G, L), LABELS), r"labels must be a tensor \(g, L\) like joint_logits"),
        (measure_tokens, ([], normal(G, C), LABELS), r"joint_logits must have shape \(g, T, V\), got .* \(6, 5\)"),
        (measure_tokens, ([], normal(G, T, C), LABELS), r"labels must be integers of shape \(6, 7\)"),
        (measure_regression, ([], normal(G, D), LABELS), r"targets must be floating, like joint_prediction"),
        (measure_pairs, (normal(G, D), normal(G, C)), r"right must have the shape of left, \(6, 3\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_forms_are_refused_by_name(measuring: Any, arguments: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        measuring(*arguments)


@pytest.mark.gpu
@every_way
def test_on_a_gpu_nothing_waits(measuring: Any) -> None:
    with torch.device("cuda"):
        arguments: dict[Any, tuple[Any, ...]] = {
            measure: ([torch.zeros(G, C)] * 2, torch.zeros(G, C), torch.full((G, C), 1 / C)),
            measure_binary: ([torch.zeros(G)] * 2, torch.zeros(G), torch.zeros(G)),
            measure_multilabel: ([torch.zeros(G, L)] * 2, torch.zeros(G, L), torch.zeros(G, L)),
            measure_tokens: ([torch.zeros(G, T, C)] * 2, torch.zeros(G, T, C), torch.zeros(G, T, dtype=torch.int64)),
            measure_regression: ([torch.zeros(G, D)] * 2, torch.zeros(G, D), torch.zeros(G, D)),
            measure_pairs: (torch.ones(G, D), torch.ones(G, D)),
            measure_losses: (torch.zeros(G),),
        }
    measuring(*arguments[measuring])
    torch.cuda.set_sync_debug_mode("error")
    try:
        measured = measuring(*arguments[measuring])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(Transfer(values.reshape(G, -1)).read().shape[0] == G for values in measured.values())
