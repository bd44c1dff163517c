import random
import shutil
from pathlib import Path

import pytest
import torch

from sounding.formats import deepspeed, format_of
from sounding.formats.proof import Proof
from sounding.opening import Opened, open_checkpoint
from sounding.records import Fact, State, Stored

from formats import deepspeed_layout  # isort: skip


def _prove(path: Path) -> Proof:
    assert format_of(path) is deepspeed.FORMAT
    return deepspeed.FORMAT.prove(path)


def _assert_equal(opened: Opened, refs: dict[str, Stored], expected: dict[str, torch.Tensor]) -> None:
    assert set(refs) == set(expected)
    for name, ref in refs.items():
        assert torch.equal(opened.tensor(ref), expected[name]), name


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_and_moments_are_put_together_from_all_ranks(tmp_path: Path, stage: int, ranks: int):
    directory, weights, moments = deepspeed_layout.write(tmp_path, 30, stage, ranks)
    proof = _prove(directory)
    assert (proof.state, proof.needs_quiet) == (State.COMPLETE, True)
    expected = weights | ({"tied.weight": weights["0.weight"]} if stage == 3 else {})
    with open_checkpoint(str(directory)) as opened:
        assert list(opened.networks) == ["model"]
        _assert_equal(opened, dict(opened.networks["model"]), expected)
        assert isinstance(opened.optimizers[0], dict)
        found = {name: state["exp_avg"] for name, state in opened.optimizers[0]["state"].items()}
        _assert_equal(opened, found, moments)
        assert [group["params"] for group in opened.optimizers[0]["param_groups"]] == [
            ["0.weight", "1.weight", "2.weight"], ["0.bias", "1.bias", "2.bias"],
        ]  # fmt: skip
        progress = opened.progress
    assert progress.step == Fact(30, "global_steps")
    assert progress.examples == Fact(300, "global_samples")
    assert progress.lr_stored == Fact(0.1, "optimizer.param_groups[0].lr")


def test_half_precision_weights_come_with_their_full_precision_masters(tmp_path: Path):
    directory, weights, _ = deepspeed_layout.write(tmp_path, 30, 2, 3, half=True)
    with open_checkpoint(str(directory)) as opened:
        assert list(opened.networks) == ["model", "master"]
        _assert_equal(opened, dict(opened.networks["master"]), weights | {"tied.weight": weights["0.weight"]})
        assert opened.networks["model"]["0.weight"].dtype == "float16"


def test_without_zero_everything_is_in_one_file(tmp_path: Path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    (tmp_path / "global_step4").mkdir()
    state = {"module": model.state_dict(), "optimizer": optimizer.state_dict(), "global_steps": 4}
    torch.save(state, tmp_path / "global_step4" / "mp_rank_00_model_states.pt")
    assert _prove(tmp_path / "global_step4").reason == "DeepSpeed checkpoint of 1 rank, whole"
    with open_checkpoint(str(tmp_path / "global_step4")) as opened:
        _assert_equal(opened, dict(opened.networks["model"]), model.state_dict())


@pytest.mark.parametrize("stage", [2, 3])
def test_a_directory_filled_file_by_file_is_pending_until_the_last(tmp_path: Path, stage: int):
    source, _, _ = deepspeed_layout.write(tmp_path / "a", 30, stage, 3)
    files = sorted(source.iterdir())
    for order in (files, files[::-1]):
        target = tmp_path / "b" / source.name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in order:
            data = file.read_bytes()
            for end in (0, 10, len(data) // 2, len(data) - 1):
                (target / file.name).write_bytes(data[:end])
                assert _prove(target).state is State.PENDING, (file.name, end)
            (target / file.name).write_bytes(data)
            assert _prove(target).state is (State.COMPLETE if file is order[-1] else State.PENDING), file.name
        assert deepspeed.fingerprint(target) == deepspeed.fingerprint(source)


def test_the_last_ranks_missing_are_counted(tmp_path: Path):
    directory, _, _ = deepspeed_layout.write(tmp_path, 30, 3, 3)
    (directory / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    assert _prove(directory).reason == "2 of 3 ranks"
    (directory / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    assert _prove(directory).reason == "ranks 1 are there, some before the last are not"


def test_a_pointer_that_is_behind_is_pending_and_one_that_is_gone_is_not(tmp_path: Path):
    directory, _, _ = deepspeed_layout.write(tmp_path, 30, 2, 2)
    for said, state in (("global_step20", State.PENDING), ("global_step30", State.COMPLETE),
                        ("global_step40", State.COMPLETE), ("best", State.COMPLETE)):  # fmt: skip
        (tmp_path / "latest").write_text(said)
        assert _prove(directory).state is state, said
    (tmp_path / "latest").unlink()
    assert _prove(directory).state is State.COMPLETE


def test_ranks_of_two_saves_of_different_sizes_are_never_complete(tmp_path: Path):
    directory, _, _ = deepspeed_layout.write(tmp_path / "three", 30, 3, 3)
    other, _, _ = deepspeed_layout.write(tmp_path / "two", 30, 3, 2)
    shutil.copy(other / "zero_pp_rank_0_mp_rank_00_optim_states.pt", directory)
    assert _prove(directory).state is not State.COMPLETE


def test_random_truncations_are_never_complete(tmp_path: Path):
    directory, _, _ = deepspeed_layout.write(tmp_path, 30, 3, 2)
    files = {file: file.read_bytes() for file in directory.iterdir()}
    generator = random.Random(9)
    for _ in range(100):
        file = generator.choice(list(files))
        file.write_bytes(files[file][: generator.randrange(len(files[file]))])
        assert _prove(directory).state is State.PENDING
        file.write_bytes(files[file])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mp_rank_01_model_states.pt", "tensor parallel"),
        ("layer_00-model_00-model_states.pt", "pipeline"),
        ("layer_0_expert_1_mp_rank_00_model_states.pt", "pipeline or expert"),
    ],
)
def test_layouts_that_are_not_read_say_so(tmp_path: Path, name: str, words: str):
    directory, _, _ = deepspeed_layout.write(tmp_path, 30, 2, 2)
    (directory / name).write_bytes(b"x")
    assert _prove(directory).state is State.BROKEN
    assert words in _prove(directory).reason


@pytest.mark.parametrize(
    "content", [{"module": 1}, [1], {"optimizer_state_dict": {"zero_stage": 2, "partition_count": 1}}]
)
def test_files_of_something_else_are_broken(tmp_path: Path, content: object):
    directory, _, _ = deepspeed_layout.write(tmp_path, 30, 2, 1)
    torch.save(content, directory / "mp_rank_00_model_states.pt")
    assert _prove(directory).state is State.BROKEN
