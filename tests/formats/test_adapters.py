import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sounding.formats import adapter_directory, format_of, trainer_directory
from sounding.formats.proof import Proof
from sounding.opening import open_checkpoint
from sounding.records import Fact, Product, State

_Tensors = dict[str, torch.Tensor]
_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 10, "base_model_name_or_path": "base", "fan_in_fan_out": False,
           "use_rslora": False, "alpha_pattern": {}}  # fmt: skip
_Q, _V, _E = "model.layers.0.q_proj", "model.layers.0.v_proj", "model.embed"


def _factors() -> _Tensors:
    torch.manual_seed(2)
    factors = {
        f"{_Q}.lora_A.weight": torch.randn(4, 6), f"{_Q}.lora_B.weight": torch.randn(8, 4),
        f"{_V}.lora_A.weight": torch.randn(2, 6), f"{_V}.lora_B.weight": torch.randn(3, 2),
        f"{_E}.lora_embedding_A": torch.randn(4, 50), f"{_E}.lora_embedding_B": torch.randn(6, 4),
        "lm_head.weight": torch.randn(5, 6),
    }  # fmt: skip
    return {f"base_model.model.{name}": value for name, value in factors.items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes what PEFT writes."""

    def write(name: str = "step_7", tensors: _Tensors | None = None, *, safe: bool = True, **settings: object) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "adapter_config.json").write_text(json.dumps(_CONFIG | settings))
        found = _factors() if tensors is None else tensors
        if safe:
            safetensors.torch.save_file(found, directory / "adapter_model.safetensors")
        else:
            torch.save(found, directory / "adapter_model.bin")
        return directory

    return write


def _prove(path: Path) -> Proof:
    assert format_of(path) is adapter_directory.FORMAT
    return adapter_directory.FORMAT.prove(path)


def _explicit(settings: dict[str, object]) -> _Tensors:
    """The changes that PEFT adds to its base model's weights, one by one."""
    f = {name.removeprefix("base_model.model."): value.double() for name, value in _factors().items()}
    patterns, root = settings.get("alpha_pattern") or {}, settings.get("use_rslora") is True
    assert isinstance(patterns, dict)

    def scale(module: str, rank: int) -> float:
        return patterns.get(module.rpartition(".")[2], 10) / (math.sqrt(rank) if root else rank)

    changes = {f"{module}.weight": scale(module, rank) * f[f"{module}.lora_B.weight"] @ f[f"{module}.lora_A.weight"]
               for module, rank in ((_Q, 4), (_V, 2))}  # fmt: skip
    if settings.get("fan_in_fan_out"):
        changes = {name: change.T for name, change in changes.items()}
    changes[f"{_E}.weight"] = (scale(_E, 4) * f[f"{_E}.lora_embedding_B"] @ f[f"{_E}.lora_embedding_A"]).T
    return changes | {"lm_head.weight": f["lm_head.weight"]}


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"fan_in_fan_out": True}, {"alpha_pattern": {"v_proj": 6}}]
)
def test_the_network_is_the_change_of_every_weight(save: Callable[..., Path], settings: dict[str, object], safe: bool):
    directory = save(safe=safe, **settings)
    assert _prove(directory) == Proof(State.COMPLETE, "adapter of 3 weight changes, whole", needs_quiet=True)
    expected = _explicit(settings)
    with open_checkpoint(str(directory)) as opened:
        network = opened.networks["model"]
        assert set(network) == set(expected)
        for name, ref in network.items():
            tensor = opened.tensor(ref)
            assert tensor.shape == expected[name].shape == ref.shape, name
            assert torch.allclose(tensor.double(), expected[name], atol=1e-5), name
            del tensor
        assert not any("lora" in name for name in network)
        assert isinstance(network[f"{_Q}.weight"], Product)


def test_half_precision_factors_are_multiplied_in_single(save: Callable[..., Path]):
    left, right = torch.randn(30, 4).bfloat16(), torch.randn(4, 20).bfloat16()
    directory = save(tensors={"m.lora_A.weight": right, "m.lora_B.weight": left})
    with open_checkpoint(str(directory)) as opened:
        change = opened.tensor(opened.networks["model"]["m.weight"])
    assert torch.equal(change, (left.float() @ right.float() * 2.5).bfloat16())


def test_the_scale_is_part_of_what_a_checkpoint_is(save: Callable[..., Path]):
    one, same, other = save("a"), save("b", base_model_name_or_path="elsewhere"), save("c", lora_alpha=20)
    first = adapter_directory.fingerprint(one)
    assert adapter_directory.fingerprint(same) == first != adapter_directory.fingerprint(other)


def test_a_directory_is_pending_until_both_files_are_whole(save: Callable[..., Path]):
    directory = save()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        whole = (directory / name).read_bytes()
        for end in (0, 1, len(whole) // 2, len(whole) - 1):
            (directory / name).write_bytes(whole[:end])
            assert _prove(directory).state is State.PENDING, (name, end)
        (directory / name).unlink()
        assert _prove(directory).state is State.PENDING, name
        (directory / name).write_bytes(whole)
    assert _prove(directory).state is State.COMPLETE


def test_a_trainers_directory_with_an_adapter_needs_the_trainers_state(save: Callable[..., Path]):
    directory = save("checkpoint-30")
    torch.save({"state": {}, "param_groups": [{"lr": 0.5, "params": []}]}, directory / "optimizer.pt")
    assert format_of(directory) is trainer_directory.FORMAT
    assert trainer_directory.FORMAT.prove(directory).state is State.PENDING
    (directory / "trainer_state.json").write_text('{"global_step": 30, "epoch": 2.0}')
    assert trainer_directory.FORMAT.prove(directory).state is State.COMPLETE
    with open_checkpoint(str(directory)) as opened:
        assert opened.progress.step == Fact(30, "trainer_state.global_step")
        assert opened.progress.lr_stored == Fact(0.5, "optimizer.param_groups[0].lr")
        assert f"{_Q}.weight" in opened.networks["model"]


@pytest.mark.parametrize(
    ("tensors", "settings", "words"),
    [
        ({"m.lora_A.weight": torch.ones(2, 3)}, {}, "expected A and B"),
        ({"m.lora_A.weight": torch.ones(2, 3), "m.lora_B.weight": torch.ones(3, 4)}, {}, "make no matrix"),
        ({"m.lora_A.weight": torch.ones(2, 3, 1, 1), "m.lora_B.weight": torch.ones(3, 2, 1, 1)}, {}, "convolutions"),
        ({"m.lora_magnitude_vector": torch.ones(3)}, {}, "magnitudes"),
        (None, {"use_dora": True}, "DoRA"),
        (None, {"peft_type": "IA3"}, "IA3"),
        (None, {"lora_alpha": None}, "no lora_alpha"),
        (None, {"alpha_pattern": {".*q_proj": 3}}, "expression"),
    ],
)
def test_adapters_that_are_not_read_say_so(
    save: Callable[..., Path], tensors: _Tensors | None, settings: dict[str, object], words: str
):
    directory = save(tensors=tensors, **settings)
    assert _prove(directory).state is State.BROKEN
    assert words in _prove(directory).reason
