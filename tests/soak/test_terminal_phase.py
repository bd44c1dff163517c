"""Neural collapse along trainings that go on long after the last training error; what it finds is kept and plotted."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from record import record
from soak.terminal_phase import SETTINGS, digits, trained

from sounding import Reading
from sounding.testing import Trial
from sounding_plugins.neural_collapse import neural_collapse

EPOCHS, SEEDS = 300, 3
AT = (0, 1, 2, 4, 8, 15, 30, 60, 100, 110, 150, 200, 210, 250, 300)
KEPT = (
    "nc1_pinv", "nc1_pinv_null", "nc1_quotient", "cdnv", "fuzziness", "nc2_norm_means", "nc2_norm_head",
    "nc2_angle_means", "nc2_angle_head", "nc2_etf_error_means", "nc2_etf_error_head", "nc3_self_duality",
    "nc3_etf_error", "nc3_bias", "nc4_disagreement",
)  # fmt: skip

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]


def test_a_terminal_phase(sounding_plugin: Trial):
    plugin: Any = neural_collapse
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    for setting in SETTINGS:
        for seed in range(SEEDS):
            rows = []
            for epoch, module, accuracy in trained(setting, seed, EPOCHS, AT):
                found = sounding_plugin(plugin, model=module, probe=digits())
                readings = {
                    f"{each.metric}:{each.split}": float(f"{each.value:.5g}")
                    for each in found
                    if isinstance(each, Reading) and each.metric in KEPT and each.value is not None
                }
                rows.append({"epoch": epoch, "train_accuracy": accuracy, **readings})
            runs.append({"setting": setting.name, "seed": seed, "readings": rows})
    record("terminal_phase", {"data": "1000 of scikit-learn's digits", "epochs": EPOCHS,
                              "settings": [asdict(each) for each in SETTINGS], "runs": runs})  # fmt: skip
    for run in runs:
        assert_terminal(run["setting"], run["readings"])


def assert_terminal(setting: str, rows: list[dict[str, Any]]) -> None:
    reached = next(row for row in rows if row["train_accuracy"] == 1.0)
    last = rows[-1]
    assert reached["epoch"] < EPOCHS / 2
    assert last["train_accuracy"] == 1.0
    assert last["nc4_disagreement:train"] < 0.02
    if setting == SETTINGS[0].name:
        assert last["nc1_pinv:train"] < reached["nc1_pinv:train"] / 5
