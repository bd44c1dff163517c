"""Patterns: which paths are checkpoints, what their names tell, and what a malformed pattern is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sounding.errors import SoundingError
from sounding.pattern import compile_pattern


def parts_of(pattern: str, path: str):
    match = compile_pattern(pattern, "store").match(path)
    assert match is not None
    return match


def test_parts_are_typed():
    match = parts_of("lr{lr:float}_s{seed:int}_{name}/ckpt_{step}.pt", "lr1e-3_s7_wide/ckpt_0500.pt")
    assert match.step == 500
    assert match.parts == {"lr": 0.001, "seed": 7, "name": "wide"}
    assert [type(value) for value in match.parts.values()] == [float, int, str]


@pytest.mark.parametrize("text", ["0.1", "1", "1.", ".5", "1e5", "-2.5E-3", "+3"])
def test_floats_are_read_as_people_write_them(text: str):
    assert parts_of("{lr:float}.pt", f"{text}.pt").parts["lr"] == float(text)


def test_the_run_is_the_part_of_that_name_or_the_store():
    assert parts_of("{run}/ckpt_{step}.pt", "a/ckpt_1.pt").run == "a"
    assert parts_of("ckpt_{step}.pt", "ckpt_1.pt").run == "store"
    assert parts_of("{run:int}/ckpt_{step}.pt", "007/ckpt_1.pt").run == "007"


def test_a_template_names_runs_by_the_text_of_their_parts():
    pattern = compile_pattern("lr{lr:float}/s{seed}/{step}.pt", "store", "rate {lr}, seed {seed}")
    match = pattern.match("lr0.10/s3/1.pt")
    assert match is not None
    assert match.run == "rate 0.10, seed 3"


@pytest.mark.parametrize(
    ("pattern", "path", "step"),
    [
        ("{run}/epoch={epoch}-step={step}.ckpt", "a/epoch=3-step=12.ckpt", 12),
        ("{run}/e{epoch}_u{updates}.pt", "a/e3_u9.pt", 9),
        ("{run}/e{epoch}.pt", "a/e3.pt", 3),
        ("{run}/e{epoch:float}.pt", "a/e3.5.pt", None),  # half an epoch orders nothing
        ("{run}/ckpt.pt", "a/ckpt.pt", None),
    ],
)
def test_the_first_whole_number_of_progress_orders_the_run(pattern: str, path: str, step: int | None):
    assert parts_of(pattern, path).step == step


def test_a_repeated_part_must_agree_with_itself():
    pattern = compile_pattern("{run}/{step}/model_{step}.pt", "store")
    assert pattern.match("a/5/model_5.pt") is not None
    assert pattern.match("a/5/model_6.pt") is None
    same = compile_pattern("{name}-{name}.pt", "store")
    assert same.match("x-x.pt") is not None
    assert same.match("x-y.pt") is None


def test_a_repeated_part_keeps_the_type_given_once():
    assert parts_of("{lr:float}/{lr}_{step}.pt", "0.5/0.5_1.pt").parts == {"lr": 0.5}


def test_a_star_stays_within_one_directory():
    pattern = compile_pattern("{run}/*/ckpt_{step}*.pt", "store")
    assert pattern.match("a/anything at all/ckpt_1.final.pt") is not None
    assert pattern.match("a/b/c/ckpt_1.pt") is None
    assert pattern.match("a/ckpt_1.pt") is None


@pytest.mark.parametrize(
    "path",
    ["a/ckpt_x.pt", "a/ckpt_1.pt.tmp", "a/xckpt_1.pt", "a/b/ckpt_1.pt", "ckpt_1.pt", "/ckpt_1.pt", "a/ckptX1.pt"],
)
def test_other_paths_are_no_checkpoints(path: str):
    assert compile_pattern("{run}/ckpt_{step}.pt", "store").match(path) is None


def test_punctuation_is_literal():
    assert compile_pattern("{run}/a+b(c).{step}", "store").match("r/aab(c).1") is None
    assert parts_of("{run}/a+b(c).{step}", "r/a+b(c).1").step == 1


def test_a_number_that_no_result_can_hold_is_no_step():
    pattern = compile_pattern("ckpt_{step}.pt", "store")
    assert parts_of("ckpt_{step}.pt", f"ckpt_{10**18 - 1}.pt").step == 10**18 - 1
    assert pattern.match(f"ckpt_{10**18}.pt") is None


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "a path below the store"),
        ("/runs/{step}.pt", "a path below the store"),
        ("../{run}/{step}.pt", "a path below the store"),
        ("./{step}.pt", "a path below the store"),
        ("{run}//{step}.pt", "a path below the store"),
        ("{run/ckpt_{step}.pt", "is not a part"),
        ("{run}/ckpt_{}.pt", "is not a part"),
        ("{run}/ckpt_{my step}.pt", "is not a part"),
        ("{run}/ckpt_step}.pt", "is not a part"),
        ("{run}/ckpt_{step:number}.pt", "expected int, float or str"),
        ("{run}/ckpt_{step:str}.pt", "a whole number"),
        ("{run}/ckpt_{step:float}.pt", "a whole number"),
        ("{lr:int}/{lr:float}.pt", "both int and float"),
        ("{lr}_{lr:int}.pt", "both str and int"),
        ("**/ckpt_{step}.pt", "one `*` for each directory"),
    ],
)
def test_a_malformed_pattern_is_refused_in_words(pattern: str, words: str):
    with pytest.raises(SoundingError) as refusal:
        compile_pattern(pattern, "store")
    assert repr(pattern) in str(refusal.value)
    assert words in str(refusal.value)


def test_refusals_of_a_malformed_path_show_a_good_one():
    with pytest.raises(SoundingError, match=r"\{run\}/ckpt_\{step\}\.pt"):
        compile_pattern("/{step}", "store")


@pytest.mark.parametrize("template", ["{seed}", "{lr", "lr}", "", "{}", "{lr!r}", "{lr:.2}", "{{lr}}"])
def test_a_template_of_unknown_parts_or_broken_braces_is_refused(template: str):
    with pytest.raises(SoundingError, match="run = "):
        compile_pattern("{lr}/{step}.pt", "store", template)


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


@given(run=names, seed=st.integers(0, 10**9), lr=st.floats(1e-12, 1e12), step=st.integers(0, 10**18 - 1))
def test_a_path_written_from_values_gives_the_values_back(run: str, seed: int, lr: float, step: int):
    match = parts_of("{run}/s{seed:int}-lr{lr:float}/ckpt_{step}.pt", f"{run}/s{seed}-lr{lr!r}/ckpt_{step}.pt")
    assert (match.run, match.step) == (run, step)
    assert match.parts == {"seed": seed, "lr": lr}
