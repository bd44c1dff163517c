"""Each kind of log, read on as it grows, is written anew, cut off, and begun again."""

import json
import math
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs.desk import Desk

LIGHTNING = """\
epoch,lr-AdamW,step,train_loss,val_acc,val_loss
,0.001,49,,,
0,,49,2.25,,
0,,62,,0.125,2.0
,0.0005,99,,,
1,,99,1.5,,
1,,125,,0.25,1.75
"""
# As `Trainer` writes it after 30 of 30 updates; shortened only in keys that no reader of logs looks at.
HUGGING_FACE = {
    "best_metric": None, "best_model_checkpoint": None, "epoch": 3.0, "eval_steps": 20, "global_step": 30,
    "is_hyper_param_search": False, "is_local_process_zero": True, "is_world_process_zero": True,
    "log_history": [
        {"epoch": 1.0, "grad_norm": 1.5, "learning_rate": 3.5e-05, "loss": 0.75, "step": 10},
        {"epoch": 2.0, "grad_norm": 1.25, "learning_rate": 2e-05, "loss": 0.5, "step": 20},
        {"epoch": 2.0, "eval_loss": 0.625, "eval_runtime": 0.01, "eval_samples_per_second": 800.0,
         "eval_steps_per_second": 100.0, "step": 20},
        {"epoch": 3.0, "grad_norm": 1.0, "learning_rate": 5e-06, "loss": 0.25, "step": 30},
    ],
    "logging_steps": 10, "max_steps": 30, "num_input_tokens_seen": 0, "num_train_epochs": 3, "save_steps": 10,
    "stateful_callbacks": {"TrainerControl": {"args": {"should_log": False}, "attributes": {}}},
    "total_flos": 7734558720.0, "train_batch_size": 8, "trial_name": None, "trial_params": None,
}  # fmt: skip


def history(*entries: dict[str, float]) -> str:
    return json.dumps({**HUGGING_FACE, "log_history": list(entries)})


def test_lightnings_sparse_rows(tmp_path: Path):
    desk = Desk(tmp_path, "metrics.csv")
    (desk.store / "metrics.csv").write_text(LIGHTNING)
    desk.read()
    assert desk.rows() == [
        (1, 49, 0, "lr-AdamW", 0.001), (1, 49, 1, "epoch", 0.0), (1, 49, 1, "train_loss", 2.25),
        (1, 62, 2, "epoch", 0.0), (1, 62, 2, "val_acc", 0.125), (1, 62, 2, "val_loss", 2.0),
        (1, 99, 3, "lr-AdamW", 0.0005), (1, 99, 4, "epoch", 1.0), (1, 99, 4, "train_loss", 1.5),
        (1, 125, 5, "epoch", 1.0), (1, 125, 5, "val_acc", 0.25), (1, 125, 5, "val_loss", 1.75),
    ]  # fmt: skip


def test_a_header_that_grows_rewrites_the_file_and_repeats_nothing(tmp_path: Path):
    desk = Desk(tmp_path, "metrics.csv")
    log = desk.store / "metrics.csv"
    log.write_text("step,train_loss\n49,2.25\n99,1.5\n")
    desk.read()
    log.write_text("epoch,step,train_loss,val_loss\n,49,2.25,\n,99,1.5,\n1,125,,1.75\n")
    desk.read()
    assert [row[:4] for row in desk.rows()] == [
        (1, 49, 0, "train_loss"), (1, 99, 1, "train_loss"), (1, 125, 2, "epoch"), (1, 125, 2, "val_loss"),
    ]  # fmt: skip


def test_a_rewrite_seen_half_way_is_waited_for(tmp_path: Path):
    desk = Desk(tmp_path, "metrics.csv")
    log = desk.store / "metrics.csv"
    whole = "step,a\n" + "".join(f"{n},{n}.5\n" for n in range(30))
    log.write_text(whole)
    desk.read()
    before = desk.rows()
    for cut in (0, 4, 7, 20, len(whole) // 2, len(whole)):
        log.write_text(whole[:cut])
        desk.read()
        assert desk.rows() == before


def test_the_trainers_history(tmp_path: Path):
    desk = Desk(tmp_path, "trainer_state.json")
    (desk.store / "trainer_state.json").write_text(json.dumps(HUGGING_FACE, indent=2, sort_keys=True))
    desk.read()
    desk.read()
    assert desk.series("loss") == [(10, 0.75), (20, 0.5), (30, 0.25)]
    assert desk.series("learning_rate") == [(10, 3.5e-05), (20, 2e-05), (30, 5e-06)]
    assert desk.series("eval_loss") == [(20, 0.625)]
    assert len(desk.rows()) == 4 + 4 + 5 + 4
    assert {row[0] for row in desk.rows()} == {1}


def test_a_history_resumed_from_an_older_checkpoint(tmp_path: Path):
    """The second life begins at 10; what the first logged beyond is no longer part of the run.

    An evaluation follows the loss of the same update, so that the last known count may lie between the two.
    """
    desk = Desk(tmp_path, "trainer_state.json")
    log = desk.store / "trainer_state.json"

    def life(value: float, *steps: int) -> list[dict[str, float]]:
        pairs = [({"step": n, "loss": value - n}, {"step": n, "eval_loss": value + n}) for n in steps]
        return [entry for pair in pairs for entry in pair]

    shared, first, second = life(1.0, *range(1, 11)), life(1.0, *range(11, 21)), life(2.0, *range(11, 23))
    log.write_text(history(*shared, *first))
    desk.read()
    for end in range(len(second) // 2 - 1, len(second) + 1):
        log.write_text(history(*shared, *second[:end]))
        desk.read()
        now = [*shared, *second[:end]]
        for key in ("loss", "eval_loss"):
            assert desk.series(key) == [(entry["step"], entry[key]) for entry in now if key in entry]
    assert {row[0] for row in desk.rows()} == {1, 2}


def test_an_older_copy_of_the_history_says_nothing_new(tmp_path: Path):
    desk = Desk(tmp_path, "trainer_state.json")
    log = desk.store / "trainer_state.json"
    entries = [{"step": step, "loss": 1 / step} for step in range(1, 40)]
    log.write_text(history(*entries))
    desk.read()
    before = desk.rows()
    for count in (30, 7, 1, 0, 39):
        log.write_text(history(*entries[:count]))
        desk.read()
        assert desk.rows() == before


def test_a_history_half_written_is_waited_for(tmp_path: Path):
    desk = Desk(tmp_path, "trainer_state.json")
    text = history({"step": 1, "loss": 0.5})
    (desk.store / "trainer_state.json").write_text(text[: len(text) // 2])
    assert desk.problems == []
    assert desk.rows() == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'),
        ("a.csv", "step,loss\n1,0.5\n2,0.25\n"),
        ("a.tsv", "step\tloss\n1\t0.5\n2\t0.25\n"),
        ("a.csv", "loss;step\r\n0.5;1\r\n0.25;2\r\n"),
        ("a.csv", '"global_step","loss"\n1,0.5\n\n2,0.25\n'),
        ("a.csv", "\ufeffstep,loss\n1.0,0.5\n2.0,0.25\n"),
    ],
)
def test_whole_lines_alone_are_taken_and_each_once(tmp_path: Path, name: str, text: str):
    """Cut after every byte: at each moment exactly the lines whose end is written."""
    desk = Desk(tmp_path, name)
    log, raw = desk.store / name, text.encode()
    for end in (*range(0, len(raw), 3), len(raw)):
        log.write_bytes(raw[:end])
        desk.read()
        lines = raw[:end].count(b"\n") - (0 if name.endswith("jsonl") else 1) - (b"\n\n" in raw[:end])
        assert [row[1] for row in desk.rows()] == [1, 2][: max(0, lines)]
    assert desk.rows() == [(1, 1, 0, "loss", 0.5), (1, 2, 1, "loss", 0.25)]


def test_values_as_a_trainer_may_log_them(tmp_path: Path):
    desk = Desk(tmp_path, "a.jsonl")
    lines = [
        {"step": 1, "loss": math.nan, "norm": math.inf, "done": True, "note": "text", "list": [1], "big": 10**400},
        {"_step": 2, "train": {"loss": 0.5, "parts": {"a": 1}}},
        {"loss": 3.0},
        {"step": 2.5, "loss": 3.0},
        {"step": 2**70, "loss": 3.0},
        {"step": 3},
        {"step": 4, "\ud800": 1.0, "k" * 300: 2.0},
    ]
    (desk.store / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "[1]\n3\n\n")
    desk.read()
    rows = desk.rows()
    assert [(row[1], row[3]) for row in rows] == [
        (1, "big"), (1, "loss"), (1, "norm"), (2, "train.loss"), (2, "train.parts.a"),
        (4, "\\ud800"), (4, "k" * 200 + "…"),
    ]  # fmt: skip
    assert [row[4] for row in rows[:1] + rows[2:5]] == [math.inf, math.inf, 0.5, 1.0]
    assert math.isnan(rows[1][4])


def test_lines_that_are_not_whole_are_passed_over_and_told(tmp_path: Path):
    desk = Desk(tmp_path, "a.jsonl", "b.csv")
    (desk.store / "a.jsonl").write_text(
        '{"step": 1, "loss": 1}\n{"step": 2, "lo{"step": 2, "loss": 2}\n{"step": 3, "loss": 3}\n'
    )
    (desk.store / "b.csv").write_text("step,x\n1,1\n2,2,2,2\n3,3\n")
    told = [reached.problem for reached in desk.read()]
    assert ["not JSON" in told[0], "4 cells under 2 columns" in told[1]] == [True, True]
    assert [row[1] for row in desk.rows()] == [1, 3, 1, 3]


def test_a_csv_that_names_its_columns_again(tmp_path: Path):
    desk = Desk(tmp_path, "a.csv")
    (desk.store / "a.csv").write_text("step,loss\n1,1.0\n2,2.0\nstep,loss\n2,2.5\nepoch,step,loss\n0,3,3.0\n")
    desk.read()
    assert desk.series("loss") == [(1, 1.0), (2, 2.5), (3, 3.0)]
    assert desk.series("epoch") == [(3, 0.0)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "epoch,loss\n1,0.5\n", "no column tells the update: found epoch, loss; expected one of step,"),
        ("a.json", "{}", "there is no list 'log_history' in it"),
        ("a.json", "[1]", "is not a JSON object"),
        ("a.tfevents.1", "\0" * 40, "the record at byte 0 is damaged"),
    ],
)
def test_logs_that_cannot_be_read_say_why(tmp_path: Path, name: str, text: str, said: str):
    if "tfevents" in name:
        pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    desk = Desk(tmp_path, name)
    (desk.store / name).write_text(text)
    (problem,) = desk.problems
    assert said in problem
    assert problem.startswith(str(desk.store / name))


def test_a_log_that_is_no_file(tmp_path: Path):
    desk = Desk(tmp_path, "a.csv", "gone.csv")
    os.mkfifo(desk.store / "a.csv")
    assert [problem for problem in desk.problems if "not a regular file" not in problem] == []
    assert len(desk.problems) == 1


def test_the_key_of_updates_can_be_named(tmp_path: Path):
    desk = Desk(tmp_path, "a.jsonl", updates="progress.n")
    (desk.store / "a.jsonl").write_text('{"progress": {"n": 7}, "step": 1, "loss": 0.5}\n')
    desk.read()
    assert desk.rows() == [(1, 7, 0, "loss", 0.5), (1, 7, 0, "step", 1.0)]


def test_a_rotated_log_is_a_new_attempt_that_takes_nothing_away(tmp_path: Path):
    desk = Desk(tmp_path, "a.jsonl")
    log = desk.store / "a.jsonl"
    log.write_text("".join(f'{{"step": {n}, "loss": {n}.5}}\n' for n in range(10)))
    desk.read()
    log.rename(desk.store / "a.jsonl.1")
    log.write_text('{"step": 10, "loss": 10.5}\n')
    desk.read()
    assert desk.series("loss") == [(n, n + 0.5) for n in range(11)]
    assert {(row[0], row[1]) for row in desk.rows()} == {*((1, n) for n in range(10)), (2, 10)}


@pytest.mark.parametrize("same_file", [True, False])
def test_a_rerun_from_the_start_replaces_the_log(tmp_path: Path, same_file: bool):
    desk = Desk(tmp_path, "a.csv")
    log = desk.store / "a.csv"
    log.write_text("step,loss\n" + "".join(f"{n},{n}.5\n" for n in range(100)))
    desk.read()
    if not same_file:
        log.unlink()
    for end in (1, 2, 50, 150):
        log.write_text("step,loss\n" + "".join(f"{n},{n}.25\n" for n in range(end)))
        desk.read()
        assert desk.series("loss") == [(n, n + 0.25) for n in range(end)]
    assert {row[0] for row in desk.rows()} == {1, 2}


def test_a_rerun_that_has_outgrown_the_log_unseen(tmp_path: Path):
    """Same inode, larger than before, other bytes: only the digests tell."""
    desk = Desk(tmp_path, "a.csv")
    log = desk.store / "a.csv"
    log.write_text("step,loss\n1,1.0\n2,2.0\n")
    desk.read()
    log.write_text("step,loss\n1,1.5\n2,2.5\n3,3.5\n")
    desk.read()
    assert desk.series("loss") == [(1, 1.5), (2, 2.5), (3, 3.5)]


def test_a_late_evaluation_is_no_rerun(tmp_path: Path):
    desk = Desk(tmp_path, "a.jsonl")
    lines = [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 0.5},
        {"step": 10, "eval": 0.75},
        {"step": 30, "loss": 0.25},
    ]
    (desk.store / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    desk.read()
    assert {row[0] for row in desk.rows()} == {1}
    assert desk.series("eval") == [(10, 0.75)]


def test_a_new_directory_per_attempt_continues_the_run(tmp_path: Path):
    """Lightning's `version_0`, `version_1`: the second resumed from update 20."""
    desk = Desk(tmp_path, "version_0.csv", "version_1.csv")
    (desk.store / "version_0.csv").write_text("step,loss\n10,1.0\n20,2.0\n30,3.0\n")
    (desk.store / "version_1.csv").write_text("step,loss\n25,2.5\n35,3.5\n")
    desk.read()
    assert desk.series("loss") == [(10, 1.0), (20, 2.0), (25, 2.5), (35, 3.5)]


def test_logs_side_by_side_leave_each_other_alone(tmp_path: Path):
    desk = Desk(tmp_path, "train.csv", "eval.csv")
    (desk.store / "train.csv").write_text("step,loss\n10,1.0\n20,2.0\n30,3.0\n")
    (desk.store / "eval.csv").write_text("step,accuracy\n10,0.5\n30,0.75\n")
    desk.read()
    assert desk.series("loss") == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert desk.series("accuracy") == [(10, 0.5), (30, 0.75)]


_ROWS = st.lists(st.tuples(st.integers(-3, 6), st.floats(-4, 4, width=16)), min_size=0, max_size=12)
_GROWTH = st.lists(st.tuples(_ROWS, st.integers(0, 20), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(growth=_GROWTH, at_once=st.sampled_from([1, 3, 1000]), kind=st.sampled_from(["csv", "jsonl"]))
def test_reading_as_it_grows_equals_reading_it_cold(
    tmp_path_factory: pytest.TempPathFactory,
    growth: list[tuple[list[tuple[int, float]], int, bool]],
    at_once: int,
    kind: str,
):
    """Random appends, cut inside lines, going back now and then, and rewritten whole with another column."""
    tmp_path = tmp_path_factory.mktemp("log")
    desk = Desk(tmp_path, f"a.{kind}", at_once=at_once)
    rows: list[tuple[int, float, int]] = []
    columns, step = 1, 0
    for added, torn, widens in growth:
        for forward, value in added:
            step += forward
            rows.append((step, value, columns - 1))
        columns += widens
        text = _written(kind, rows, columns)
        (desk.store / f"a.{kind}").write_bytes(text[: max(0, len(text) - torn)])
        desk.read()
    (desk.store / f"a.{kind}").write_bytes(text)
    desk.read()
    cold = Desk(tmp_path_factory.mktemp("cold"), f"a.{kind}")
    (cold.store / f"a.{kind}").write_bytes(text)
    cold.read()
    assert desk.rows() == cold.rows()
    assert len({row[:4] for row in desk.rows()}) == len(desk.rows()) == len(rows)


def _written(kind: str, rows: list[tuple[int, float, int]], columns: int) -> bytes:
    names = [f"c{number}" for number in range(columns)]
    if kind == "jsonl":
        return b"".join(json.dumps({"step": step, names[c]: value}).encode() + b"\n" for step, value, c in rows)
    lines = [",".join([str(step), *(repr(value) if n == c else "" for n in range(columns))]) for step, value, c in rows]
    return "\n".join([",".join(["step", *names]), *lines, ""]).encode()


def test_memory_stays_bounded_and_long_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sounding.logs.lines.BLOCK", 64)
    monkeypatch.setattr("sounding.logs.lines.LONGEST", 200)
    desk = Desk(tmp_path, "a.csv")
    log = desk.store / "a.csv"
    log.write_text("step,loss\n" + "".join(f"{n},{n}.5\n" for n in range(200)))
    desk.read()
    assert len(desk.rows()) == 200
    with log.open("a") as file:
        file.write("x" * 1000)
    assert "is longer than" in desk.problems[0]
    assert len(desk.rows()) == 200


def test_without_the_extra_event_files_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    desk = Desk(tmp_path, "events.out.tfevents.1")
    (desk.store / "events.out.tfevents.1").write_bytes(b"")
    assert "pip install 'sounding[tensorboard]'" in desk.problems[0]
