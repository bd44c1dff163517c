"""The configuration: every mistake is told with file, key, what was expected and an example."""

from pathlib import Path

import pytest
from making import CONFIG, settings_in
from pydantic import BaseModel

from sounding.config import DaemonTable, ResultsTable, StoreTable, cores, load_config
from sounding.errors import SoundingError

STORE = '[[stores]]\npath = "runs"\n'


def refused(path: Path, text: str) -> str:
    (path / "sounding.toml").write_text(text)
    with pytest.raises(SoundingError) as refusal:
        load_config(path / "sounding.toml")
    return str(refusal.value)


def test_a_store_and_a_pattern_are_enough(tmp_path: Path):
    settings = settings_in(tmp_path, CONFIG)
    (store,) = settings.stores
    assert (store.name, store.path, store.recipe) == ("runs", tmp_path / "runs", None)
    assert store.patterns[0].match("a/ckpt_1.pt") is not None
    assert settings.results == tmp_path / ".sounding"
    assert settings.daemon == DaemonTable.model_validate({})


def test_paths_are_relative_to_the_file_not_to_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    text = '[results]\npath = "../out"\n[[stores]]\npath = "a/../b"\npattern = "{run}/{step}.pt"\nrecipe = "./r.py"\n'
    settings = settings_in(tmp_path, text)
    assert settings.results == tmp_path.parent / "out"
    assert settings.stores[0].path == tmp_path / "b"
    assert settings.stores[0].recipe == tmp_path / "r.py"


def test_everything_that_can_be_set_arrives(tmp_path: Path):
    settings = settings_in(
        tmp_path,
        """
        [[stores]]
        name = "lab"
        path = "runs"
        pattern = ["lr{lr}/{step}.pt", "lr{lr}/last.pt"]
        run = "rate {lr}"
        attributes = "{run}/config.yaml"
        models = { raw = "model", ema = "ema" }
        quiet_seconds = 5
        [plugins.sharpness]
        at = "every 5000"
        top_k = 10
        [plugins.loss]
        enabled = false
        [passes.gradients]
        bins = 3
        [daemon]
        workers = 2
        threads = 3
        device = "cuda:1"
        """,
    )
    (store,) = settings.stores
    assert (store.name, store.attributes, store.quiet_seconds) == ("lab", ("{run}/config.yaml",), 5.0)
    assert store.models == {"raw": "model", "ema": "ema"}
    matches = [pattern.match(path) for pattern, path in zip(store.patterns, ("lr1/2.pt", "lr1/last.pt"), strict=True)]
    assert [match and (match.run, match.step) for match in matches] == [("rate 1", 2), ("rate 1", None)]
    assert settings.plugins["sharpness"].options == {"top_k": 10}
    assert settings.plugins["sharpness"].schedule.wants(5000, 0, None)
    assert not settings.plugins["sharpness"].schedule.wants(1, 0, None)
    assert not settings.plugins["loss"].enabled
    assert settings.passes == {"gradients": {"bins": 3}}
    assert (settings.threads, settings.daemon.device) == (3, "cuda:1")


def test_copies_are_limited_in_the_units_that_people_use(tmp_path: Path):
    for text, size in (("", 100_000_000_000), ('holds_max = "1.5 TB"', 1_500_000_000_000), ("holds_max = 0", 0)):
        assert settings_in(tmp_path, f"[results]\n{text}\n").holds_max == size


def test_threads_share_the_cores_among_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("sounding.config.settings.cores", cores)  # which counts for no other test
    for workers, threads in ((1, 8), (3, 2), (16, 1)):
        assert settings_in(tmp_path, f"[daemon]\nworkers = {workers}\n").threads == threads


@pytest.mark.parametrize(
    ("text", "key", "expected", "example"),
    [
        ("[results]\npath = 3", "results.path", "string", 'path = ".sounding"'),
        ("results = 3", "results", "dictionary", "[results]"),
        ("stores = 3", "stores", "list", "[[stores]]"),
        ("plugins = 3", "plugins", "dictionary", "[plugins.loss]"),
        ("passes = 3", "passes", "dictionary", "[passes.NAME]"),
        ("daemon = 3", "daemon", "dictionary", "[daemon]"),
        ('[[stores]]\npattern = "{step}"', "stores[0].path", "required", 'path = "runs"'),
        (STORE, "stores[0].pattern", "required", 'pattern = "{run}/ckpt_{step}.pt"'),
        (f"{STORE}pattern = []", "stores[0].pattern", "at least 1", 'pattern = "{run}/ckpt_{step}.pt"'),
        (f"{STORE}pattern = 3", "stores[0].pattern", "list", 'pattern = "{run}/ckpt_{step}.pt"'),
        (f'{STORE}pattern = "x"\nquiet_seconds = -1', "stores[0].quiet_seconds", "greater than", "quiet_seconds = 2.0"),
        (f'{STORE}pattern = "x"\nquiet_seconds = inf', "stores[0].quiet_seconds", "finite", "quiet_seconds = 2.0"),
        (f'{STORE}pattern = "x"\nhold = "maybe"', "stores[0].hold", "'auto', True or False", "hold = true"),
        (f'{STORE}pattern = "x"\nnetwork = 3', "stores[0].network", "'auto', True or False", "network = true"),
        ('[results]\nholds_max = "much"', "results.holds_max", "unit", 'holds_max = "100 GB"'),
        ("[plugins.loss]\nat = 3", "plugins.loss.at", "string", 'at = "every 5000"'),
        ('[plugins.loss]\nat = "often"', "plugins.loss: at", "expected", '"first,last"'),
        ('[plugins.loss]\nenabled = "no"', "plugins.loss.enabled", "boolean", "enabled = false"),
        ('[daemon]\nworkers = "two"', "daemon.workers", "integer", "workers = 1"),
        ("[daemon]\nworkers = 0", "daemon.workers", "greater than", "workers = 1"),
        ('[daemon]\ndevice = "gpu"', "daemon.device", "pattern", 'device = "cpu"'),
        ("[daemon]\nretry_seconds = 1e9", "daemon.retry_seconds", "less than", "retry_seconds = 30.0"),
        ("[daemon]\nscan_seconds = nan", "daemon.scan_seconds", "finite", "scan_seconds = 2.0"),
        (f'{STORE}pattern = "{{run"', "stores[0]: pattern", "is not a part", "{run}/ckpt_{step}.pt"),
        (f'{STORE}pattern = "{{lr}}"\nrun = "{{seed}}"', "stores[0]: run", "no part {seed}", "['lr']"),
    ],
)
def test_a_wrong_key_is_told_with_file_key_expectation_and_example(
    tmp_path: Path, text: str, key: str, expected: str, example: str
):
    message = refused(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'sounding.toml'}: {key}")
    assert expected in message
    assert example in message


@pytest.mark.parametrize(
    ("text", "key", "known"),
    [
        ("[result]\n", "result", "results"),
        ("[results]\nfolder = 1", "results.folder", "path"),
        (f'{STORE}patern = "x"', "stores[0].patern", "pattern"),
        ("[daemon]\nworker = 1", "daemon.worker", "workers"),
    ],
)
def test_an_unknown_key_is_told_with_those_that_are_known(tmp_path: Path, text: str, key: str, known: str):
    (line,) = [line for line in refused(tmp_path, text).splitlines() if "unknown key" in line]
    assert f": {key}: unknown key; expected one of" in line
    assert known in line.partition("expected one of")[2]


def test_all_wrong_keys_are_told_at_once(tmp_path: Path):
    message = refused(tmp_path, '[daemon]\nworkers = "two"\nthreads = 0\n[results]\npath = 1\n')
    assert [line.split(": ")[1] for line in message.splitlines()] == [
        "results.path",
        "daemon.workers",
        "daemon.threads",
    ]


@pytest.mark.parametrize("key", StoreTable.model_fields)
def test_the_example_of_every_key_of_a_store_is_accepted(tmp_path: Path, key: str):
    (example,) = StoreTable.model_fields[key].examples or ()
    keys = {"path": 'path = "runs"', "pattern": 'pattern = "lr{lr}_s{seed}/{step}.pt"'} | {key: example}
    settings_in(tmp_path, "[[stores]]\n" + "\n".join(keys.values()))


@pytest.mark.parametrize(("name", "table"), [("results", ResultsTable), ("daemon", DaemonTable)])
def test_the_examples_of_every_other_key_are_accepted(tmp_path: Path, name: str, table: type[BaseModel]):
    examples = [example for field in table.model_fields.values() for example in field.examples or ()]
    assert len(examples) == len(table.model_fields)
    settings_in(tmp_path, f"[{name}]\n" + "\n".join(examples))


@pytest.mark.parametrize(
    ("one", "other"),
    [("runs", "runs"), ("runs", "runs/deep"), ("runs/deep", "runs"), ("runs", "link"), ("link/x", "runs")],
)
def test_overlapping_stores_are_refused(tmp_path: Path, one: str, other: str):
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    stores = [
        f'[[stores]]\nname = "{name}"\npath = "{path}"\npattern = "{{step}}"\n'
        for name, path in (("a", one), ("b", other))
    ]
    message = refused(tmp_path, "".join(stores))
    assert "'a' and 'b' overlap" in message
    assert str(tmp_path / one) in message
    assert str(tmp_path / other) in message


def test_stores_side_by_side_are_not_refused(tmp_path: Path):
    stores = [f'[[stores]]\npath = "{path}"\npattern = "{{step}}"\n' for path in ("runs", "runs2", "deep/er")]
    assert [store.name for store in settings_in(tmp_path, "".join(stores)).stores] == ["runs", "runs2", "er"]


def test_two_stores_of_one_name_are_refused(tmp_path: Path):
    stores = [f'[[stores]]\npath = "{path}/runs"\npattern = "{{step}}"\n' for path in ("a", "b")]
    assert "two stores are named 'runs'" in refused(tmp_path, "".join(stores))


@pytest.mark.parametrize("results", ["runs", "runs/.sounding", "link/readings"])
def test_results_inside_a_store_are_refused(tmp_path: Path, results: str):
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    message = refused(tmp_path, f'[results]\npath = "{results}"\n{CONFIG}')
    assert "results.path" in message
    assert "'runs'" in message
    assert "../sounding-results" in message


@pytest.mark.parametrize(
    ("granted", "found"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_a_container_has_the_cores_that_it_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: str, found: int
):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu.max").write_text(granted)
    assert cores(tmp_path / "cpu.max") == found
    assert cores(tmp_path / "missing") == 8


def test_schedules_follow_what_a_plugin_costs_unless_its_table_says_otherwise(tmp_path: Path):
    path = tmp_path / "sounding.toml"
    path.write_text(
        '[schedule]\ngradient = "every 10"\n[plugins.loss]\nat = "log2"\n[plugins.kernel]\nenabled = true\n'
    )
    settings = load_config(path)
    schedules = {
        (name, cost): settings.schedule_of(name, cost).text
        for name, cost in (("norm", "weights"), ("loss", "data"), ("kernel", "gradient"), ("sharpness", "curvature"))
    }
    assert list(schedules.values()) == ["all", "log2", "every 10", "first,last"]
    path.write_text('[schedule]\ncurvature = "sometimes"\n')
    with pytest.raises(SoundingError, match=r"schedule\.curvature: at = 'sometimes'"):
        load_config(path)
    path.write_text('[schedule]\ncheap = "all"\n')
    with pytest.raises(SoundingError, match="expected one of weights, data, gradient, curvature, offline"):
        load_config(path)
