"""The ranks of a sharded training job, a process each: `sharded_writer.py RANKS DIRECTORY STEP …`.

At every step, saves DIRECTORY/live anew with torch.distributed.checkpoint; rank 0 copies it, with its times, to
DIRECTORY/step_N, and saves what it should hold as DIRECTORY/full_N.pt.
"""

import multiprocessing
import shutil
import sys
from pathlib import Path

import torch
import torch._dynamo  # which every optimizer asks for
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 7), torch.nn.ReLU(), torch.nn.Linear(7, 1)
    )  # uneven and empty shards
    fully_shard(model[0], mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(5, 6)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def full(value: object) -> object:
    if isinstance(value, dict):
        return {key: full(item) for key, item in value.items()}
    if isinstance(value, list):
        return [full(item) for item in value]
    return value.full_tensor() if isinstance(value, DTensor) else value


def save(model: torch.nn.Module, optimizer: torch.optim.Optimizer, directory: Path, step: int) -> None:
    weights, states = get_state_dict(model, optimizer, options=StateDictOptions(cpu_offload=True))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    columns = distribute_tensor(torch.arange(30.0).view(3, 10), mesh, [Shard(1)])
    tree = {"model": weights, "optimizer": states, "columns": {"w": columns}, "step": step, "args": {"lr": [0.1, "a"]}}
    expected = full(tree)
    dcp.save(tree, checkpoint_id=directory / "live")
    if dist.get_rank() == 0:
        torch.save(expected, directory / f"full_{step}.pt")
        shutil.copytree(directory / "live", directory / f"step_{step}")
    dist.barrier()


def main(ranks: int, directory: Path, steps: list[int]) -> int:
    """The ranks come from a process that has imported torch and never run it; returns how many did not end well."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank, ranks, directory, steps)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


def run(rank: int, ranks: int, directory: Path, steps: list[int]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=ranks)
    model, optimizer = build()
    for step in range(1, max(steps) + 1):
        train(model, optimizer)
        if step in steps:
            save(model, optimizer, directory, step)
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), [int(step) for step in sys.argv[3:]]))
