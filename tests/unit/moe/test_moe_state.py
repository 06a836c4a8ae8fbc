"""Data order, hashing, checkpoints over layouts, negative controls, sampling. One process, no cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents.rank import BadFile, ReplicaDivergence, RestorePoint, WorkloadRefused, describe_files
from training_jobs.moe import data, sample
from training_jobs.moe.checkpoint import dense_part, experts_part, owned_parts, restore, write_part
from training_jobs.moe.config import ModelConfig, TrainConfig, train_config
from training_jobs.moe.hashing import combined, digests, merged, state_digest
from training_jobs.moe.parallel import ExpertParallel, Layout
from training_jobs.moe.state import TrainState
from training_jobs.moe.train.trainer import Trainer, make_deterministic

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

ALONE = Layout(0, 1, 0, 1, 0, 1)
SMALL = ModelConfig(hidden=32, layers=1, ffn=32, expert_ffn=16, q_rank=16, kv_rank=8)
TEXT = torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    make_deterministic()


def trained(steps: int, state: TrainState | None = None, **changes: int) -> TrainState:
    config = replace(TrainConfig(SMALL, batch=2, sequence=16), **changes)
    trainer = Trainer(config, TEXT, ALONE)
    trainer.state.initialise(config.seed)
    if state is not None:
        load(trainer.state, state)
    while trainer.state.step < steps:
        trainer.train_step()
    return trainer.state


@torch.no_grad()
def load(target: TrainState, source: TrainState) -> None:
    for mine, theirs in (
        (target.dense_tensors(), source.dense_tensors()),
        (target.expert_tensors(), source.expert_tensors()),
    ):
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])


def test_batches_are_a_function_of_seed_step_and_rank() -> None:
    def draw(**changes: int) -> torch.Tensor:
        where = {"seed": 1, "step": 5, "dp_rank": 0, **changes}
        return data.batch(TEXT, rows=3, sequence=16, **where)

    assert draw().shape == (3, 17)
    assert torch.equal(draw(), draw())
    for change in ({"seed": 2}, {"step": 6}, {"dp_rank": 1}):
        assert not torch.equal(draw(), draw(**change))


def test_text_is_read_in_a_fixed_order_without_installed_packages(tmp_path: Path) -> None:
    for name, text in (("b.py", "B"), ("a/x.py", "X"), ("site-packages/p.py", "P"), ("a.txt", "T"), ("A.py", "A")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert bytes(data.load_text(tmp_path, 100).tolist()) == b"ABX"
    assert len(data.load_text(tmp_path, 2)) == 2
    with pytest.raises(WorkloadRefused, match=r"no \.py files"):
        data.load_text(tmp_path / "nowhere", 10)


def test_the_default_data_is_the_standard_library() -> None:
    text = data.load_text(train_config({}).data_folder, 100_000)
    assert len(text) == 100_000


def test_training_is_reproducible_and_restoring_in_the_middle_changes_no_bit() -> None:
    undisturbed = state_digest(trained(12), None)
    assert state_digest(trained(12), None) == undisturbed
    assert state_digest(trained(12, trained(7)), None) == undisturbed


def test_the_loss_falls() -> None:
    config = TrainConfig(SMALL, batch=4, sequence=32)
    text = data.load_text(config.data_folder, 200_000)
    trainer = Trainer(config, text, ALONE)
    trainer.state.initialise(1)
    losses = [trainer.train_step() for _ in range(60)]
    assert losses[0] == pytest.approx(5.5, abs=0.15)
    assert sum(losses[-5:]) / 5 < 3.6


@pytest.mark.parametrize("control", [{"skip_batch": 5}, {"drop_buffer": 5}, {"seed": 99}])
def test_negative_controls_change_the_digest(control: dict[str, int]) -> None:
    assert state_digest(trained(8, **control), None) != state_digest(trained(8), None)


def test_each_kind_of_tensor_changes_the_digest() -> None:
    state = trained(2)
    before = state_digest(state, None)
    tensors = {**state.dense_tensors(), **state.expert_tensors()}
    for name in (
        "train.step",
        "blocks.0.moe.router.bias",
        "head.weight.exp_avg_sq",
        "blocks.0.moe.experts.7.down",
        "blocks.0.moe.experts.0.gate.exp_avg",
    ):
        saved = tensors[name].clone()
        tensors[name].flatten()[0] += 1
        assert state_digest(state, None) != before, name
        tensors[name].copy_(saved)
    assert state_digest(state, None) == before


def test_digests_do_not_depend_on_who_holds_what_and_replicas_must_agree() -> None:
    table = {f"t{i}": f"{i:064x}" for i in range(6)}
    lines = [f"{name} {digest}\n" for name, digest in table.items()]
    two = merged(["".join(lines[:4]).encode(), "".join(lines[2:]).encode()])
    assert combined(two) == combined(table)
    with pytest.raises(ReplicaDivergence, match=r"t0 \(rank 1 against rank 0\)"):
        merged([b"t0 aa\n", b"t0 bb\n"])


def written(folder: Path, state: TrainState, ep: int) -> RestorePoint:
    """The checkpoint that ranks of expert-parallel degree `ep` would write of `state`."""
    parts = [dense_part(state.dense_tensors())]
    per = SMALL.experts // ep
    experts = state.expert_tensors()
    for first in range(0, SMALL.experts, per):
        wanted = tuple(f".experts.{index}." for index in range(first, first + per))
        parts.append(experts_part({k: v for k, v in experts.items() if any(w in k for w in wanted)}))
    files = []
    for part in parts:
        for unit in part.units.values():
            unit.stage()
        write_part(folder, part, state.step, SMALL)
        files += describe_files(folder, part.name)
    return RestorePoint("c", state.step, folder, tuple(files))


@pytest.mark.parametrize("loads", [1, 2, 4, 8])
@pytest.mark.parametrize("wrote", [1, 2, 8])
def test_a_checkpoint_of_one_layout_gives_every_rank_of_another_the_same_bits(
    tmp_path: Path, wrote: int, loads: int
) -> None:
    """Replicas hold alike what is loaded here, so that the number of them does not matter either."""
    state = trained(2)
    point = written(tmp_path, state, wrote)
    there = digests({**state.dense_tensors(), **state.expert_tensors()})
    loaded: dict[str, str] = {}
    for rank in range(loads):
        part = TrainState(TrainConfig(SMALL), ExpertParallel(None, rank, loads))
        restore(part, point, model=SMALL)
        loaded |= digests({**part.dense_tensors(), **part.expert_tensors()})
    assert loaded == there


@pytest.mark.parametrize("ep", [1, 2, 4])
def test_a_checkpoint_of_any_layout_restores_the_same_bits(tmp_path: Path, ep: int) -> None:
    state = trained(3)
    point = written(tmp_path, state, ep)
    whole = TrainState(TrainConfig(SMALL), ExpertParallel.alone())
    restore(whole, point)
    assert whole.step == 3
    assert state_digest(whole, None) == state_digest(state, None)
    half = TrainState(TrainConfig(SMALL), ExpertParallel(None, 1, 2))
    restore(half, point)
    assert digests(half.expert_tensors()).items() <= digests(state.expert_tensors()).items()


def test_a_restore_reads_only_the_parts_it_needs(tmp_path: Path) -> None:
    point = written(tmp_path, trained(2), 2)
    (tmp_path / "experts-0-3" / "__0_0.distcp").unlink()
    restore(TrainState(TrainConfig(SMALL), ExpertParallel(None, 1, 2)), point)
    with pytest.raises(BadFile, match=r"experts-0-3/__0_0\.distcp: cannot be read"):
        restore(TrainState(TrainConfig(SMALL), ExpertParallel(None, 0, 2)), point)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = trained(2)
    point = written(tmp_path, state, 2)
    with pytest.raises(BadFile, match="holds step 2, the manifest says 4"):
        restore(state, replace(point, step=4))
    with pytest.raises(BadFile, match="no part holds expert-4"):
        restore(state, replace(point, files=tuple(f for f in point.files if "experts-4" not in f.path)))
    with pytest.raises(BadFile, match="names no file of this part"):
        restore(state, replace(point, files=tuple(f for f in point.files if "dense" not in f.path)))
    wider = replace(SMALL, hidden=SMALL.hidden * 2, top_k=SMALL.top_k - 1)
    text = f"another model: hidden is {SMALL.hidden} there and {SMALL.hidden * 2} here, top_k is {SMALL.top_k} there"
    with pytest.raises(BadFile, match=text):
        restore(TrainState(TrainConfig(wider), ExpertParallel.alone()), point, model=wider)
    with pytest.raises(BadFile, match="other tensors than this model has"):
        restore(TrainState(TrainConfig(replace(SMALL, hidden=16)), ExpertParallel.alone()), point)


def test_ownership_writes_everything_once() -> None:
    state = TrainState(TrainConfig(SMALL), ExpertParallel.alone())
    for dp, ep in ((1, 1), (4, 2), (4, 4), (8, 2)):
        names: list[str] = []
        busiest = 0
        for rank in range(dp):
            at = Layout(rank, dp, rank % ep, ep, rank // ep, dp // ep)
            owner = TrainState(TrainConfig(SMALL), ExpertParallel(None, at.ep_rank, ep))
            parts = owned_parts(owner, at)
            busiest = max(busiest, len(parts))
            names += [name for part in parts for unit in part.units.values() for name in unit.names]
        assert sorted(names) == sorted({**state.dense_tensors(), **state.expert_tensors()})
        assert busiest == (1 if dp // ep > 1 else 2)


def test_sampling_needs_only_the_folder_and_is_seeded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, trained(2), 2)
    arguments = ["--checkpoint", str(tmp_path), "--prompt", "def ", "--length", "8", "--seed"]
    outputs = []
    for seed in ("1", "1", "2"):
        assert sample.main([*arguments, seed]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0].startswith("def ")
    assert outputs[0] == outputs[1] != outputs[2]
    assert sample.main(["--checkpoint", str(tmp_path / "nowhere")]) == 2
    assert "cannot be read" in capsys.readouterr().err
