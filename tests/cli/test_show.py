"""`show`: the readings of a run, known beforehand, as tables, sparklines, plots and JSON."""

import io
import math

import pytest
from cli.lab import LOSS, LOSSES, NORM, STEPS, Lab, sheet
from rich.console import Console

from sounding.records import MetricSheet, Reading
from sounding_cli.series import Series
from sounding_cli.show import first_fitting
from sounding_cli.shown import narrow_overview, overview


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_a_metric_is_a_table_over_the_steps_with_units_errors_and_sparklines(lab: Lab) -> None:
    assert lines(lab.run("show", "fast", "loss")) == [
        "fast · store runs · 4 checkpoints, steps 0 to 300",
        "                loss            loss",
        "                loss            loss",
        "               train         heldout",
        "step           [nat]           [nat]",
        "────────────────────────────────────",
        "   0   2.302 ± 0.012   2.310 ± 0.012",
        " 100   1.000 ± 0.012   1.200 ± 0.012",
        " 200   0.500 ± 0.012   0.900 ± 0.012",
        " 300   0.250 ± 0.012   0.800 ± 0.012",
        "────────────────────────────────────",
        "                █▃▁▁            █▃▁▁",
    ]


def test_a_whole_run_is_one_line_per_series_of_the_whole_network(lab: Lab) -> None:
    result = lab.outcome("show", "fast")
    text = lines(result.stdout)
    assert text[1].split() == ["metric", "split", "first", "last", "unit", "over", "the", "steps"]
    assert [line.split()[0] for line in text[3:]] == ["loss.loss", "loss.loss", "weight_norm.frobenius"]
    assert text[-1].split() == ["weight_norm.frobenius", "3", "6", "weight", "▁▃▆█"]
    assert "2 series more" in result.stderr


def test_parts_are_chosen_by_pattern(lab: Lab) -> None:
    rows = lab.json("show", "fast", "frobenius", "--part", "layer1*")
    assert [(row["part"], row["step"], row["value"]) for row in rows] == [
        ("layer1.weight", step, 1.0 + place) for place, step in enumerate(STEPS)
    ]


def test_a_split_is_chosen_and_json_has_every_reading(lab: Lab) -> None:
    rows = lab.json("show", "fast", "loss.loss", "--split", "train")
    assert [row["value"] for row in rows] == list(LOSSES["train"])
    assert {(row["metric"], row["unit"], row["status"], row["stderr"]) for row in rows} == {
        ("loss", "nat", "ok", 0.0123)
    }


@pytest.mark.parametrize("name", ["loss", "loss.loss", "lo*", "loss.*"])
def test_a_metric_is_named_with_or_without_its_plugin_or_by_a_pattern(lab: Lab, name: str) -> None:
    assert len(lab.json("show", "fast", name)) == 8


def test_a_reading_that_did_not_converge_is_marked(lab: Lab) -> None:
    result = lab.outcome("show", "slow", "loss")
    assert "2*" in result.stdout
    assert "not converged: 1 reading" in result.stderr


def test_labels_stand_in_the_place_of_numbers(lab: Lab) -> None:
    regime = sheet("regime", MetricSheet("phase", "", "phase of training", "tests", "label"))
    lab.record(regime, "slow", 100, Reading("phase", label="lazy"))
    assert "lazy" in lab.run("show", "slow", "phase")


def test_readings_of_several_kinds_are_series_of_their_own(lab: Lab) -> None:
    curved = sheet("sharpness", MetricSheet("lambda_max", "1", "largest eigenvalue", "tests"))
    for step, value in ((100, 1.25), (200, 1.5)):
        kinds = [Reading("lambda_max", value * factor, kind=kind) for factor, kind in ((1, "ggn"), (2, "hessian"))]
        lab.record(curved, "slow", step, *kinds)
    table = lines(lab.run("show", "slow", "lambda_max"))
    assert any(line.split() == ["ggn", "hessian"] for line in table)
    assert ["100", "1.250", "2.500"] in [line.split() for line in table]
    assert ["200", "1.500", "3.000"] in [line.split() for line in table]


def test_the_kind_of_a_layer_is_not_repeated_beside_its_name(lab: Lab) -> None:
    lab.record(NORM, "slow", 100, Reading("frobenius", 2.5, part="conv.weight", kind="conv"))
    assert "conv.weight conv" not in lab.run("show", "slow", "frobenius", "--part", "*")


def test_labels_of_many_words_are_told_in_full_below_the_table(lab: Lab) -> None:
    about = sheet("regime", MetricSheet("rests_on", "", "what it rests on", "tests", "label"), LOSS.metrics[0])
    first, second = (f"a mean over {count} examples, which is more than a column has room for" for count in (8, 16))
    lab.record(about, "slow", 100, Reading("rests_on", label=first), Reading("loss", 0.25))
    lab.record(about, "slow", 200, Reading("rests_on", label=second), Reading("loss", 0.5))
    told = lab.run("show", "slow", "regime.*")
    assert ["100", "0.2500"] in [line.split() for line in lines(told)]
    assert f"regime.rests_on\n  from step 100: {first}\n  from step 200: {second}" in told


def test_a_diverged_run_is_shown_and_its_json_stays_json(lab: Lab) -> None:
    lab.see("wild", 1)
    lab.record(LOSS, "wild", 1, Reading("loss", math.nan, split="train"))
    lab.see("wild", 2)
    lab.record(LOSS, "wild", 2, Reading("loss", math.inf, split="train"))
    text = lab.run("show", "wild", "loss", "--plot")
    assert "nan" in text
    assert "inf" in text
    assert "××" in text
    assert [row["value"] for row in lab.json("show", "wild")] == [None, None]


def test_a_plot_has_a_legend_and_no_escape_codes_where_there_is_no_terminal(lab: Lab) -> None:
    text = lab.run("show", "fast", "loss", "--plot")
    assert "loss.loss [nat]" in text
    assert "o train" in text
    assert "x heldout" in text
    assert "\x1b" not in text


def test_more_series_than_fit_are_listed_below_each_other(lab: Lab) -> None:
    lab.see("deep", 0)
    many = [Reading("loss", float(depth), part=f"layer{depth:02}.weight") for depth in range(30)]
    lab.record(LOSS, "deep", 0, *many)
    text = lines(lab.run("show", "deep", "loss"))
    assert [line.split()[1] for line in text[3:]] == [f"layer{depth:02}.weight" for depth in range(30)]


def test_a_run_that_does_not_exist_gets_the_name_that_was_meant(lab: Lab) -> None:
    assert "no run 'fats'; did you mean 'fast'?" in lab.error("show", "fats")


def test_a_run_that_resembles_none_gets_the_names_there_are(lab: Lab) -> None:
    assert "There is fast, slow" in lab.error("show", "qqqqqqq")


def test_a_metric_that_does_not_exist_gets_the_name_that_was_meant(lab: Lab) -> None:
    assert "did you mean 'frobenius'?" in lab.error("show", "fast", "frobenios")
    assert "did you mean 'weight_norm.frobenius'?" in lab.error("show", "fast", "weight_norm.frobenios")


def test_one_unknown_metric_among_known_ones_is_an_error(lab: Lab) -> None:
    assert "'losss'" in lab.error("show", "fast", "frobenius", "losss")


def test_a_split_that_was_not_measured_is_named(lab: Lab) -> None:
    assert "split 'test'" in lab.error("show", "fast", "loss", "--split", "test")


def test_a_run_without_readings_says_what_to_ask(lab: Lab) -> None:
    lab.see("new", 1)
    assert "sounding why new@STEP" in lab.error("show", "new")


def test_no_results_at_all_says_what_to_start(empty_lab: Lab) -> None:
    assert "no readings yet" in empty_lab.error("show", "fast")


def test_a_run_in_two_stores_must_be_told_apart(lab: Lab) -> None:
    lab.see("fast", 7, store="other")
    lab.record(LOSS, "fast", 7, Reading("loss", 9.0), store="other")
    assert "other:fast or runs:fast" in lab.error("show", "fast")
    assert [row["value"] for row in lab.json("show", "other:fast")] == [9.0]


def test_a_name_with_brackets_is_not_taken_for_markup(lab: Lab) -> None:
    lab.see("[bold]x", 1)
    lab.record(LOSS, "[bold]x", 1, Reading("loss", 9.0, part="[red]"))
    text = lab.run("show", "[bold]x", "loss")
    assert "[bold]x" in text
    assert "[red]" in text


def long_named() -> Series:
    row = {"step": 1, "value": 0.5, "label": None, "status": "ok", "unit": "1/weight²", "recorded_at": ""}
    return Series("effective_learning_rate", "equilibrium_rotation", "", "layer.0.weight", "train", "", 3, (row,))


def test_no_name_is_broken_within_a_word_on_a_narrow_screen() -> None:
    screen = Console(width=80, file=io.StringIO())
    screen.print(narrow_overview([long_named()]))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.split()}
    assert words >= {
        "effective_learning_rate.",
        "equilibrium_rotation",
        "layer.0.weight",
        "#3",
        "train",
        "[1/weight²]",
    }


@pytest.mark.parametrize(("width", "chosen"), [(200, 0), (90, 1), (20, 1)])
def test_the_table_is_the_first_that_fits_the_screen(width: int, chosen: int) -> None:
    tables = (overview([long_named()]), narrow_overview([long_named()]))
    assert first_fitting(Console(width=width, file=io.StringIO()), tables) is tables[chosen]
