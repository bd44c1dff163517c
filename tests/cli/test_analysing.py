"""What `analyse` found, as tables: no reading stands in another's place."""

from typing import Any

import pytest

from sounding_cli.analysing import _print


def reading(metric: str, value: float | None, **fields: Any) -> dict[str, Any]:
    nothing = {"label": None, "part": "", "kind": "", "split": "", "group": "", "index": None, "stderr": None}
    return {"plugin": "sharpness", "metric": metric, "value": value, "unit": "1", "status": "ok", **nothing, **fields}


def test_kinds_have_a_line_each_and_labels_of_many_words_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    conditions = "the mean loss over 256 examples, by which all above is told"
    _print(
        [
            reading("conditions", None, kind="hessian", label=conditions),
            reading("lambda_max", 1.25, kind="hessian"),
            reading("lambda_max", 0.5, kind="ggn"),
        ]
    )
    told = capsys.readouterr().out
    assert [line.split() for line in told.splitlines() if line.startswith(("hessian", "ggn"))] == [
        ["hessian", "1.250"],
        ["ggn", "0.500"],
    ]
    assert f"sharpness.conditions hessian\n  {conditions}" in told
