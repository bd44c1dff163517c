"""What of a checkpoint comes into memory: what is asked for, for as long as it is needed."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from mapped import mapped_bytes

from sounding.opening import open_checkpoint
from sounding.passes.magnitudes import magnitudes
from sounding.passes.weights import weights


def test_a_state_that_nobody_asks_for_is_not_read(tmp_path: Path):
    path = tmp_path / "with_state.pt"
    model = {f"w{i}": torch.ones(1 << 20) for i in range(4)}
    state = {i: {"exp_avg": torch.ones(1 << 20), "exp_avg_sq": torch.ones(1 << 20)} for i in range(4)}
    torch.save({"model": model, "optimizer": {"state": state, "param_groups": [{"params": [0, 1, 2, 3]}]}}, path)
    size = 4 << 20
    with open_checkpoint(str(path)) as opened:
        assert mapped_bytes(path) < 1 << 20
        assert magnitudes(weights(opened, "")).norm == 2048.0
        assert 4 * size <= mapped_bytes(path) < 5 * size  # of twelve
        optimizer: Any = opened.optimizers[0]
        assert float(opened.tensor(optimizer["state"][3]["exp_avg_sq"]).sum()) == 1 << 20
        assert 5 * size <= mapped_bytes(path) < 6 * size


def test_what_was_read_is_given_back(tmp_path: Path):
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1 << 20), "b": torch.ones(1 << 20) * 2}, path)
    size = 4 << 20
    with open_checkpoint(str(path)) as opened:
        found = weights(opened, "")
        total = float(found["a"].sum() + found["b"].sum())
        assert mapped_bytes(path) >= 2 * size
        found.release("a")
        assert size <= mapped_bytes(path) < 1.5 * size
        assert float(found["a"].sum() + found["b"].sum()) == total == 3 * (1 << 20)
        found["b"].zero_()
        found.release("b")
        assert found.changed() == ["b"]  # it is still known who wrote
        found.forget()
