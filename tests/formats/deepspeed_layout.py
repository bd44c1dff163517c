"""Directories as DeepSpeed lays them out, for any number of ranks, from a model that one process trained.

The layout is that of DeepSpeed 0.19: what its own `zero_to_fp32.py` reads.
"""

import enum
import math
from collections import OrderedDict
from pathlib import Path

import torch

_Tensors = dict[str, torch.Tensor]


class ZeroStageEnum(int, enum.Enum):
    """How newer versions keep the stage."""

    optimizer_states = 1
    gradients = 2
    weights = 3


def write(root: Path, step: int, stage: int, ranks: int, *, half: bool = False) -> tuple[Path, _Tensors, _Tensors]:
    """Writes root/global_stepN and root/latest; returns the directory, all weights, and all first moments."""
    torch.manual_seed(step)
    model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3))
    weights = dict(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    groups = [[name for name in names if name.endswith("weight")], [name for name in names if name.endswith("bias")]]
    moments = {name: torch.randn_like(weights[name]) for name in names}
    directory = root / f"global_step{step}"
    directory.mkdir(parents=True)
    cut = _by_rank if stage == 3 else _by_group
    for rank in range(ranks):
        if stage == 3 or rank == 0:
            name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
            torch.save(_model_state(weights, names, groups, step, emptied=stage == 3, half=half), directory / name)
        flat = [cut(weights, group, rank, ranks, spare=False) for group in groups]
        first = [cut(moments, group, rank, ranks, spare=stage < 3) for group in groups]
        entries = {place: {"step": torch.tensor(float(step)), "exp_avg": each} for place, each in enumerate(first)}
        settings = [{"lr": 0.1, "betas": (0.9, 0.999), "params": [place]} for place in entries]
        state = {"state": entries, "param_groups": settings}
        kept = {"zero_stage": ZeroStageEnum(stage), "partition_count": [ranks] * len(groups) if stage < 3 else ranks}
        keys = ("optimizer_state_dict", "fp32_flat_groups") if stage == 3 else (
            "base_optimizer_state", "single_partition_of_fp32_groups")  # fmt: skip
        kept |= {keys[0]: state, keys[1]: flat}
        torch.save({"optimizer_state_dict": kept, "ds_version": "0.19.8"},
                   directory / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")  # fmt: skip
    (root / "latest").write_text(directory.name)
    return directory, weights, moments


def _model_state(
    weights: _Tensors, names: list[str], groups: list[list[str]], step: int, *, emptied: bool, half: bool
) -> dict[str, object]:
    module = OrderedDict(
        (name, torch.empty(0) if emptied and name in names else value.half() if half and name in names else value)
        for name, value in weights.items()
    )
    shapes = [OrderedDict((name, weights[name].shape) for name in group) for group in groups]
    buffers = [name for name in weights if name not in names]
    return {"module": module, "buffer_names": buffers, "optimizer": None, "param_shapes": shapes,
            "shared_params": {"tied.weight": "0.weight"}, "frozen_param_shapes": None, "frozen_param_fragments": None,
            "lr_scheduler": {"last_batch_iteration": step}, "global_steps": step, "global_samples": step * 10,
            "ds_version": "0.19.8", "epoch": 2}  # fmt: skip


def _by_group(tensors: _Tensors, group: list[str], rank: int, ranks: int, *, spare: bool) -> torch.Tensor:
    """Stages 1 and 2: one vector, padded to equal parts; the last part of the weights is kept without the padding."""
    flat = torch.cat([tensors[name].reshape(-1) for name in group])
    part = math.ceil(len(flat) / (2 * ranks)) * 2
    own = flat[rank * part : (rank + 1) * part].clone()
    return torch.cat([own, torch.zeros(part - len(own))]) if spare else own


def _by_rank(tensors: _Tensors, group: list[str], rank: int, ranks: int, *, spare: bool) -> torch.Tensor:
    """Stage 3: an equal part of every parameter, the last one padded."""
    parts = []
    for name in group:
        flat = tensors[name].reshape(-1)
        part = math.ceil(len(flat) / ranks)
        own = flat[rank * part : (rank + 1) * part]
        parts.append(torch.cat([own, torch.full((part - len(own),), 99.0)]))
    return torch.cat(parts)
