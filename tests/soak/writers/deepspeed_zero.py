"""DeepSpeed on two ranks without a GPU: `deepspeed_zero.py STORE HAND [RANK STAGE]`; without a rank, starts both."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from by_hand import keep

STEPS, EVERY, RANKS, PAUSE = 9, 3, 2, 3.0


def train(store: Path, rank: int, stage: int) -> None:
    import deepspeed

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 31), torch.nn.BatchNorm1d(31), torch.nn.Linear(31, 5))
    settings = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }  # fmt: skip
    deepspeed.init_distributed(
        "gloo", init_method=f"file://{store.parent}/meeting_{stage}", rank=rank, world_size=RANKS
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for step in range(1, STEPS + 1):
        engine.backward(engine(torch.randn(8, 12)).square().mean())
        engine.step()
        if step % EVERY == 0:
            engine.save_checkpoint(str(store / f"zero{stage}"))
            time.sleep(PAUSE)


def main(store: Path, hand: Path) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    for stage in (1, 2, 3):
        ranks = []
        for rank in range(RANKS):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "GLOO_SOCKET_IFNAME": "lo"}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
            arguments = [sys.executable, __file__, str(store), str(hand), str(rank), str(stage)]
            ranks.append(subprocess.Popen(arguments, env=os.environ | place))
        if max(rank.wait() for rank in ranks):
            raise SystemExit(f"a rank of stage {stage} failed")
        for step in range(EVERY, STEPS + 1, EVERY):
            weights = get_fp32_state_dict_from_zero_checkpoint(str(store / f"zero{stage}"), f"global_step{step}")
            progress = {"updates": step, "lr_stored": 0.01, "examples": step * 8 * RANKS}
            keep(hand, f"zero{stage}", step, weights, progress)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        train(Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
