"""The command as a process: what it imports, what it costs, how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.lab import Lab

HEAVY = ("torch", "pyarrow", "pandas", "pydantic", "plotext", "numpy", "sounding.config")
COMMANDS = {
    "status": ("state", ["status"]),
    "show": ("show", ["show", "fast", "loss"]),
    "query": ("sql", ["query", "SELECT count(*) FROM readings"]),
    "runs": ("listings", ["runs"]),
}
LISTED = """
import sys
from sounding_cli.app import main
sys.argv = ["sounding", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("\\n".join(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_reader_imports_nothing_heavy_and_no_other_command(lab: Lab, command: str) -> None:
    own, arguments = COMMANDS[command]
    ended = subprocess.run(
        [sys.executable, "-c", LISTED.format(arguments=arguments)],
        cwd=lab.path,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ended.stderr.splitlines())
    assert not loaded & set(HEAVY)
    from sounding_cli.app import COMMANDS as ALL

    others = {f"sounding_cli.{module}" for module in ALL.values()} - {f"sounding_cli.{own}"}
    assert not loaded & others


def run(arguments: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # a width of the terminal's
    return subprocess.run(
        [sys.executable, "-m", "sounding_cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**surroundings, **environment},
    )


def test_an_error_is_one_message_on_standard_error_without_a_traceback(lab: Lab) -> None:
    ended = run(["show", "fats"], lab.path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "sounding: no run 'fats'; did you mean 'fast'? `sounding runs` lists all.\n"


def test_debug_shows_the_traceback(lab: Lab) -> None:
    for arguments in (["--debug", "show", "fats"], ["show", "fats", "--debug"]):
        ended = run(arguments, lab.path)
        assert ended.returncode == 1
        assert "Traceback" in ended.stderr


def test_an_unforeseen_error_has_no_traceback_either(lab: Lab) -> None:
    (lab.results / "daemon.json").write_text("not JSON", encoding="utf-8")
    ended = run(["status"], lab.path)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "daemon.json" in ended.stderr or "--debug" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["shwo"], ["show"], ["show", "--nope"], ["query", "SELECT 1", "--format", "xml"]]
)
def test_wrong_usage_exits_2(lab: Lab, arguments: list[str]) -> None:
    ended = run(arguments, lab.path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_misspelt_command_gets_the_one_that_was_meant(lab: Lab) -> None:
    assert "status" in run(["statsu"], lab.path).stderr


def test_no_configuration_says_how_to_get_one(tmp_path: Path) -> None:
    ended = run(["status"], tmp_path)
    assert ended.returncode == 1
    assert "sounding init" in ended.stderr


def test_the_configuration_is_named_before_or_behind_the_command_or_in_the_environment(
    lab: Lab, tmp_path: Path
) -> None:
    config = str(lab.path / "sounding.toml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for arguments in (
        ["--config", config, "show", "fast"],
        ["show", "fast", "--config", config],
        ["show", f"--config={config}", "fast"],
    ):
        assert "loss.loss" in run(arguments, elsewhere).stdout
    assert "loss.loss" in run(["show", "fast"], elsewhere, SOUNDING_CONFIG=config).stdout


def test_the_version(tmp_path: Path) -> None:
    from sounding import __version__

    assert run(["--version"], tmp_path).stdout == f"sounding {__version__}\n"


def test_a_reader_that_leaves_early_is_no_error(lab: Lab) -> None:
    command = f"{sys.executable} -m sounding_cli query 'SELECT * FROM range(100000)' --format csv"
    ended = subprocess.run(
        ["bash", "-c", f"{command} | head -1"], cwd=lab.path, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "range\n"
    assert ended.stderr == ""


def hear_ctrl_c() -> None:
    """A process started in the background of a script is deaf to Ctrl-C, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_exits_130_without_a_traceback(lab: Lab) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sounding_cli", "status", "--watch"],
        cwd=lab.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=hear_ctrl_c,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("daemon")
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_pipes_get_neither_colours_nor_cut_lines(lab: Lab) -> None:
    lab.see("a" * 150, 1)
    ended = run(["checkpoints"], lab.path)
    assert "\x1b" not in ended.stdout
    assert "a" * 150 in ended.stdout


def test_an_ascii_terminal_gets_question_marks_and_no_traceback(lab: Lab) -> None:
    ended = run(["show", "fast", "loss"], lab.path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ended.returncode == 0, ended.stderr
    assert "2.302" in ended.stdout
