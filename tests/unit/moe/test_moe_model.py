"""Routing, zero experts, the bias controller, expert parallelism against its absence."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from agents.rank import Groups, WorkloadRefused
from tests.fixtures.rank_threads import local_group, on_ranks
from training_jobs.moe.attention import LatentAttention, rope_table, rotate
from training_jobs.moe.config import ModelConfig, train_config
from training_jobs.moe.experts import MixtureOfExperts, Router
from training_jobs.moe.model import LanguageModel
from training_jobs.moe.optimizer import FlatAdamW
from training_jobs.moe.parallel import ExpertParallel, reduce_gradients
from training_jobs.moe.state import TrainState, named_experts

CONFIG = ModelConfig()


def built(parallel: ExpertParallel | None = None) -> TrainState:
    state = TrainState(train_config({}), parallel or ExpertParallel.alone())
    state.initialise(7)
    return state


def test_the_router_takes_the_largest_biased_scores_and_weighs_without_the_bias() -> None:
    router = Router(CONFIG)
    torch.nn.init.normal_(router.classifier.weight)
    tokens = torch.randn(50, CONFIG.hidden)
    scores = torch.softmax(router.classifier(tokens), dim=-1)
    router.bias[3] = 10.0
    chosen, weights = router(tokens)
    assert (chosen == 3).any(dim=1).all(), "a large bias is chosen by every token"
    assert torch.equal(weights, scores.gather(1, chosen) * CONFIG.routed_scale)
    assert router.load.sum() == 50 * CONFIG.top_k
    assert router.load[3] == 50


def test_no_gradient_reaches_the_bias_and_it_is_in_no_parameter_list() -> None:
    model = LanguageModel(CONFIG)
    assert "blocks.0.moe.router.bias" in dict(model.named_buffers())
    assert not [name for name, _ in model.named_parameters() if "bias" in name]


def test_zero_experts_return_their_input_times_their_weight() -> None:
    mixture = MixtureOfExperts(CONFIG, ExpertParallel.alone())
    torch.nn.init.normal_(mixture.router.classifier.weight)
    mixture.router.bias[: CONFIG.experts] = -10.0  # only zero experts are left
    x = torch.randn(2, 5, CONFIG.hidden)
    _, weights = mixture.router(x.view(-1, CONFIG.hidden))
    expected = x * weights.sum(dim=1).view(2, 5, 1)
    assert torch.allclose(mixture(x), expected)
    assert mixture.router.load[: CONFIG.experts].sum() == 0


def test_a_mixture_is_the_weighted_sum_of_its_experts() -> None:
    state = built()
    mixture = next(state.model.mixtures())
    tokens = torch.randn(1, 9, CONFIG.hidden)
    chosen, weights = mixture.router(tokens[0])
    expected = torch.zeros(9, CONFIG.hidden)
    for token in range(9):
        for choice, weight in zip(chosen[token].tolist(), weights[token], strict=True):
            x = tokens[0, token]
            if choice < CONFIG.experts:
                gate, up, down = (getattr(mixture.experts, kind)[choice] for kind in ("gate", "up", "down"))
                x = (torch.nn.functional.silu(x @ gate) * (x @ up)) @ down
            expected[token] += weight * x
    assert torch.allclose(mixture(tokens)[0], expected, atol=1e-5)


def test_the_controller_raises_starved_experts_and_leaves_zero_experts_alone() -> None:
    router = Router(CONFIG)
    load = torch.zeros(12)
    load[0], load[11] = 60.0, 60.0
    router.steer(load, real_per_token=2.0, rate=0.1)
    share = 2.0 / (CONFIG.top_k * CONFIG.experts)
    assert router.bias[0] == pytest.approx(0.1 * (share - 0.5))
    assert router.bias[1] == pytest.approx(0.1 * share)
    assert router.bias[CONFIG.experts :].abs().sum() == 0


def test_the_controller_steers_the_average_number_of_real_experts() -> None:
    torch.manual_seed(0)
    router = Router(CONFIG)
    torch.nn.init.normal_(router.classifier.weight, std=0.3)
    tokens = torch.randn(400, CONFIG.hidden)
    for _ in range(300):
        router(tokens)
        router.steer(router.load, real_per_token=2.0, rate=0.1)
    real = router.load[: CONFIG.experts]
    assert real.sum().item() / 400 == pytest.approx(2.0, abs=0.1)
    assert real.max() < 2 * real.min(), "and the load is level"


def test_attention_is_causal_and_rotation_keeps_lengths() -> None:
    torch.manual_seed(1)
    attention = LatentAttention(CONFIG)
    rope = rope_table(CONFIG)[:8]
    x = torch.randn(1, 8, CONFIG.hidden)
    changed = x.clone()
    changed[0, 5:] += 1.0
    assert torch.allclose(attention(x, rope)[0, :5], attention(changed, rope)[0, :5], atol=1e-6)
    pairs = torch.randn(2, 8, CONFIG.rope_dim)
    assert torch.allclose(rotate(pairs, rope).norm(dim=-1), pairs.norm(dim=-1), atol=1e-5)


def test_expert_parallel_gives_the_results_and_gradients_of_one_rank() -> None:
    text = torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(3))
    whole = built()
    whole.model.loss(text).backward()
    expected = {name: p.grad.clone() for name, p in whole.model.named_parameters() if p.grad is not None}

    def work(rank: int, store: dist.Store) -> tuple[float, dict[str, torch.Tensor], TrainState]:
        ep = local_group(store, "ep", [0, 1], rank)
        state = built(ExpertParallel(ep, rank, 2))
        loss = state.model.loss(text[2 * rank : 2 * rank + 2])
        loss.backward()
        alone = local_group(store, "edp", [rank], rank)
        state.dense.extra[0] = loss.detach() / 2
        reduce_gradients(state.dense, state.experts, Groups(ep, ep, ep, alone), 2)
        grads = {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}
        return state.dense.extra[0].item(), grads, state

    results = on_ranks(2, work)
    for rank, (loss, grads, state) in enumerate(results):
        assert loss == pytest.approx(whole.model.loss(text).item(), abs=1e-5)
        for name, grad in grads.items():
            full = expected[name][rank * 4 : rank * 4 + 4] if ".experts." in name else expected[name]
            assert torch.allclose(grad, full, atol=1e-5), name
        held = {name for name, _ in named_experts(state.model)}
        assert f"blocks.0.moe.experts.{4 * rank}.gate" in held
    assert sum(len(named_experts(state.model)) for _, _, state in results) == len(named_experts(whole.model))


def test_first_weights_do_not_depend_on_the_layout() -> None:
    whole = dict(named_experts(built().model))
    half = dict(named_experts(built(ExpertParallel(None, 1, 2)).model))
    assert len(half) * 2 == len(whole)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in half.items())


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"stpes": 3}, "unknown argument stpes; known: .*steps"),
        ({"steps": "many"}, "steps='many' is not of type int"),
        ({"steps": 2.5}, "steps=2.5 is not of type int"),
        ({"data": 3}, "data=3 is not of type str"),
        ({"top_k": 13}, "top_k=13 must be between"),
        ({"rope_dim": 7}, "must be even"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_named(args: dict[str, object], text: str) -> None:
    with pytest.raises(WorkloadRefused, match=text):
        train_config(args)


def test_whole_numbers_from_json_are_integers() -> None:
    config = train_config({"steps": 20.0, "hidden": 32.0, "lr": 1})
    assert (config.steps, config.model.hidden, config.lr) == (20, 32, 1.0)
    assert isinstance(config.steps, int)


def test_the_flat_optimizer_computes_what_torch_computes() -> None:
    torch.manual_seed(4)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((5, 3), (7,))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    flat = FlatAdamW(ours, extra=2)
    reference = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1)
    for count in range(1, 6):
        flat.gradients.zero_()
        for mine, other in zip(ours, theirs, strict=True):
            (mine.square().sum() + mine.sum()).backward()
            other.grad = mine.grad.clone() if mine.grad is not None else None
        flat.step(count, lr=0.01, weight_decay=0.1)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
        assert torch.allclose(flat.moments(mine)["exp_avg_sq"], reference.state[other]["exp_avg_sq"], atol=1e-7)
    assert len(flat.extra) == 2
