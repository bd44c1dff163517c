"""Lightning: the best checkpoints by loss, and `last.ckpt` beside them. `lightning_fit.py STORE HAND`."""

import shutil
import sys
import time
import warnings
from pathlib import Path

import lightning
import torch
from by_hand import keep
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

PAUSE = 3.0


class Aside(ModelCheckpoint):
    """Keeps what every save should hold, opened by torch from the file just written."""

    hand: Path

    def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        copy = self.hand / "fit" / "copies" / f"{trainer.global_step}.ckpt"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(filepath, copy)
        saved = torch.load(copy, weights_only=False)
        weights = {name.removeprefix("model."): each for name, each in saved["state_dict"].items()}
        progress = {
            "updates": saved["global_step"], "epoch": saved["epoch"],
            "lr_stored": saved["optimizer_states"][0]["param_groups"][0]["lr"],
            "wall_time": saved["callbacks"]["Timer"]["time_elapsed"]["train"],
        }  # fmt: skip
        if not (self.hand / "fit" / f"{trainer.global_step}.json").exists():  # `last.ckpt` is the same, a little later
            keep(self.hand, "fit", trainer.global_step, weights, progress)
        time.sleep(PAUSE)


class Task(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        loss = self.model(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def main(store: Path, hand: Path) -> None:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(64, 8))
    saving = Aside(store / "fit", "{epoch}-{step}", monitor="loss", mode="min", save_top_k=2, save_last=True)
    saving.hand = hand
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, callbacks=[Timer(), saving], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Task(), torch.utils.data.DataLoader(data, batch_size=16))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
