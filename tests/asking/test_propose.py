"""What a directory of checkpoints looks like, and the configuration that says so."""

from pathlib import Path

import pytest

from sounding.asking.propose import document, propose
from sounding.config import load_config
from sounding.errors import SoundingError


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["a/ckpt_0.pt", "a/ckpt_100.pt", "b/ckpt_0.pt"], "{run}/ckpt_{step}.pt"),
        (["a/ckpt.pt", "b/ckpt.pt"], "{run}/ckpt.pt"),
        (["a/epoch=0-step=10.ckpt", "b/epoch=1-step=20.ckpt"], "{run}/epoch={epoch}-step={step}.ckpt"),
        (["a/checkpoints/epoch_1.pth", "b/checkpoints/epoch_2.pth"], "{run}/checkpoints/epoch_{epoch}.pth"),
        (["model_0001.pth", "model_0002.pth"], "model_{step}.pth"),
        (["a/iter_5.safetensors", "b/iter_6.safetensors"], "{run}/iter_{step}.safetensors"),
        (["a/net-0.98-step7.pt", "b/net-0.98-step8.pt"], "{run}/net-0.98-step{step}.pt"),
        (
            ["a/checkpoint-10/model.safetensors", "a/checkpoint-10/optimizer.pt", "b/checkpoint-20/model.safetensors"],
            "{run}/checkpoint-{step}",
        ),
        (
            ["a/checkpoint-10/model-00001-of-00002.safetensors", "b/checkpoint-20/model.safetensors.index.json"],
            "{run}/checkpoint-{step}",
        ),
    ],
)
def test_numbers_become_parts_and_directories_the_run(tmp_path: Path, names: list[str], pattern: str) -> None:
    store = make(tmp_path / "runs", *names)
    proposal = propose(store)
    assert [guess.pattern for guess in proposal.guesses] == [pattern]
    config = tmp_path / "sounding.toml"
    config.write_text(document(proposal, tmp_path), encoding="utf-8")
    (settings,) = load_config(config).stores
    assert settings.path == store
    example = proposal.guesses[0].example
    assert settings.patterns[0].match(example) is not None


def test_two_directories_above_name_the_run_together(tmp_path: Path) -> None:
    store = make(tmp_path / "runs", "x/s1/ckpt_1.pt", "x/s2/ckpt_1.pt", "y/s1/ckpt_1.pt")
    config = tmp_path / "sounding.toml"
    config.write_text(document(propose(store), tmp_path), encoding="utf-8")
    pattern = load_config(config).stores[0].patterns[0]
    assert [pattern.match(path).run for path in ("x/s1/ckpt_1.pt", "y/s1/ckpt_1.pt")] == ["x/s1", "y/s1"]  # type: ignore[union-attr]


def test_names_that_repeat_another_checkpoint_are_left_out_and_said_so(tmp_path: Path) -> None:
    store = make(tmp_path / "runs", "a/ckpt_1.ckpt", "a/last.ckpt", "a/best-v1.ckpt", "b/ckpt_2.ckpt")
    proposal = propose(store)
    assert proposal.moving == ("a/best-v1.ckpt", "a/last.ckpt")
    assert [guess.pattern for guess in proposal.guesses] == ["{run}/ckpt_{step}.ckpt"]
    assert "best-v1.ckpt" in document(proposal, tmp_path)


def test_a_lone_last_checkpoint_is_a_checkpoint(tmp_path: Path) -> None:
    store = make(tmp_path / "runs", "a/last.ckpt", "b/last.ckpt")
    assert [guess.pattern for guess in propose(store).guesses] == ["{run}/last.ckpt"]


def test_several_patterns_are_listed_the_most_frequent_first(tmp_path: Path) -> None:
    store = make(tmp_path / "runs", "a/step_1.pt", "a/step_2.pt", "b/snapshot_1.pt")
    assert [(guess.pattern, guess.count) for guess in propose(store).guesses] == [
        ("{run}/step_{step}.pt", 2),
        ("{run}/snapshot_{step}.pt", 1),
    ]


def test_a_project_directory_gives_its_room_of_runs(tmp_path: Path) -> None:
    make(tmp_path, "runs/a/ckpt_1.pt", "runs/b/ckpt_1.pt", "notes.txt")
    assert propose(tmp_path).store == tmp_path / "runs"


def test_files_that_describe_a_run_become_attributes(tmp_path: Path) -> None:
    store = make(tmp_path / "runs", "a/ckpt_1.pt", "a/config.yaml", "b/.hydra/config.yaml", "b/ckpt_1.pt")
    proposal = propose(store)
    assert proposal.attributes == ("{run}/config.yaml", "{run}/.hydra/config.yaml")
    assert '\nattributes = ["{run}/config.yaml"' in document(proposal, tmp_path)


def test_an_empty_directory_gives_an_example_to_change(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    config = tmp_path / "sounding.toml"
    config.write_text(document(propose(tmp_path / "runs"), tmp_path), encoding="utf-8")
    assert "No file here looks like a checkpoint yet" in config.read_text(encoding="utf-8")
    assert load_config(config).stores[0].patterns[0].text == "{run}/ckpt_{step}.pt"


def test_hidden_and_unreadable_rooms_are_passed_over(tmp_path: Path) -> None:
    store = make(tmp_path / "runs", ".git/ckpt_1.pt", "a/ckpt_1.pt", "b/ckpt_2.pt")
    assert sum(guess.count for guess in propose(store).guesses) == 2


def test_a_name_with_quotes_stays_valid_toml(tmp_path: Path) -> None:
    store = make(tmp_path / 'my "runs"', "a/ckpt_1.pt", "b/ckpt_2.pt")
    config = tmp_path / "sounding.toml"
    config.write_text(document(propose(store), tmp_path), encoding="utf-8")
    assert load_config(config).stores[0].path == store


def test_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SoundingError, match="not a directory"):
        propose(tmp_path / "nowhere")
