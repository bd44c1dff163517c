"""Two ranks whose network FSDP2 shards, saved by torch and by Accelerate. `distributed_shards.py STORE HAND [RANK]`."""

import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from by_hand import keep
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

STEPS, RANKS, PAUSE = 3, 2, 4.0


def by_accelerate(model: torch.nn.Module, optimizer: torch.optim.Optimizer, directory: Path, rank: int) -> None:
    """What `save_state` calls where FSDP shards the network; the rest of it wants a GPU."""
    from accelerate import PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils

    PartialState(cpu=True)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    stub = SimpleNamespace(process_index=rank, num_processes=RANKS)
    fsdp_utils.save_fsdp_model(plugin, stub, model, str(directory))
    fsdp_utils.save_fsdp_optimizer(plugin, stub, optimizer, model, str(directory))


def train(store: Path, hand: Path, rank: int) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 31), torch.nn.BatchNorm1d(31), torch.nn.Linear(31, 5))
    mesh = init_device_mesh("cpu", (RANKS,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(1, STEPS + 1):
        model(torch.randn(8, 12)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        weights = get_model_state_dict(model)
        flat = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
        states = get_optimizer_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": states, "step": step}, checkpoint_id=store / "in_place" / "live")
        dcp.save({"model": weights, "optimizer": states}, checkpoint_id=store / "by_step" / f"step_{step}")
        dcp.save({"model": weights, "optimizer": flat}, checkpoint_id=store / "flattened" / f"step_{step}")
        by_accelerate(model, optimizer, store / "accelerate" / f"step_{step}", rank)
        if rank == 0:
            shutil.copytree(store / "in_place" / "live", hand / "copies" / "in_place" / f"step_{step}")
        dist.barrier()
        time.sleep(PAUSE)
    dist.destroy_process_group()


def main(store: Path, hand: Path) -> None:
    place = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    for rank in range(RANKS):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = [sys.executable, "-W", "ignore", __file__, str(store), str(hand), str(rank)]
        ranks.append(subprocess.Popen(arguments, env=os.environ | place | own))
    if max(rank.wait() for rank in ranks):
        raise SystemExit("a rank failed")
    for run in ("in_place", "by_step", "flattened", "accelerate"):
        for step in range(1, STEPS + 1):
            directory = (hand / "copies" if run == "in_place" else store) / run / f"step_{step}"
            inner = directory / "pytorch_model_fsdp_0" if run == "accelerate" else directory
            dcp_to_torch_save(inner, hand / "whole.pt")
            weights = torch.load(hand / "whole.pt", weights_only=False)["model"]
            keep(hand, run, step, weights, {"updates": step, "lr_stored": 0.01})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 3:
        train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
