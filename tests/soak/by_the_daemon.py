"""What a daemon recorded of a store, beside what its writer kept by hand."""

import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from sounding.asking.query import connect

_NUMBERED = re.compile(r"(?:checkpoint[-_]|global_step|step_|.*step=)(\d+)(?:\.ckpt|\.pt|\.safetensors)?")
_OVERWRITTEN = ("ckpt.pt", "live")
Place = tuple[str, int]  # run and step


def survivors(place: Path) -> set[Place]:
    """What the writer left, `last.ckpt` aside, which is one of the others."""
    store, hand = place / "store", place / "hand"
    left: set[Place] = set()
    for path in store.rglob("*"):
        run = path.relative_to(store).parts[0]
        kept = [int(file.stem) for file in (hand / run).glob("*.json")]
        match = _NUMBERED.fullmatch(path.name)
        if match is not None and int(match[1]) in kept:
            left.add((run, int(match[1])))
        elif path.name in _OVERWRITTEN:
            left.add((run, max(kept)))
    return left


def _rows(place: Path, query: str) -> list[dict[str, Any]]:
    found = connect(place / ".sounding").execute(query)
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def readings(place: Path) -> dict[Place, dict[str, dict[str, float]]]:
    """Norms by checkpoint, model and part."""
    found: dict[Place, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    query = "SELECT run, step, model, part, value FROM readings WHERE plugin = 'weight_norm' AND metric = 'frobenius'"
    for row in _rows(place, query):
        found[row["run"], row["step"]][row["model"] or ""][row["part"]] = row["value"]
    return found


def compared(place: Path) -> dict[str, object]:
    """Every reading beside the norm of the same tensor as its library read it, and every fact beside the same fact."""
    found = readings(place)
    wrong: set[Place] = set()
    worst, counted = 0.0, 0
    for at, models in found.items():
        kept = place / "hand" / at[0] / f"{at[1]}.json"
        networks = json.loads(kept.read_text())["networks"] if kept.exists() else {}
        for model, expected in {**{model: {} for model in models}, **networks}.items():
            pairs = [(value, expected.get(part)) for part, value in models.get(model, {}).items()]
            apart = [_difference(value, other) for value, other in pairs]
            counted += len(apart)
            worst = max(worst, *apart, 0.0)
            if not apart or max(apart) > 1e-9 or not _nothing_missing(models.get(model, {}), expected):
                wrong.add(at)
    left = survivors(place)
    facts, wrong_facts = _facts(place)
    return {
        "checkpoints_saved": sum(1 for _ in (place / "hand").glob("*/*.json")),
        "checkpoints_measured": len(found),
        "survivors": len(left),
        "survivors_measured": len(left & set(found)),
        "readings_compared": counted,
        "largest_relative_difference": worst,
        "checkpoints_wrongly_complete": len(wrong),
        "facts_compared": facts,
        "facts_wrong": wrong_facts,
        "steps_with_two_checkpoints": _twice(place),
        "attributes_wrong": _attributes(place),
    }


def _difference(value: float, expected: float | None) -> float:
    if expected is None:
        return math.inf
    return abs(value - expected) / expected if expected else abs(value)


def _nothing_missing(found: dict[str, float], expected: dict[str, float]) -> bool:
    """Whether what has no reading of its own is tied to something that has one."""
    return all(part in found or _tied(part, expected, found) for part in expected)


def _tied(part: str, expected: dict[str, float], found: dict[str, float]) -> bool:
    return any(expected[part] == expected[other] for other in found if other in expected)


def _facts(place: Path) -> tuple[int, list[str]]:
    """Step, epoch, rates and times of every checkpoint, and which are not what the library says."""
    told = {
        (row["run"], row["step"]): row for row in _rows(place, "SELECT * FROM checkpoints WHERE status = 'complete'")
    }
    count = 0
    wrong: list[str] = []
    for at, row in told.items():
        kept = place / "hand" / at[0] / f"{at[1]}.json"
        for name, value in json.loads(kept.read_text())["progress"].items() if kept.exists() else ():
            count += 1
            if row[name] is None or not math.isclose(row[name], value, rel_tol=1e-12) or not row[f"{name}_source"]:
                wrong.append(f"{at[0]} {at[1]}: {name} is {row[name]}, the library says {value}")
    return count, wrong


def _twice(place: Path) -> int:
    query = "SELECT run, step FROM readings GROUP BY run, step HAVING count(DISTINCT checkpoint_id) > 1"
    return len(_rows(place, query))


def _attributes(place: Path) -> list[str]:
    wrong: list[str] = []
    for kept in (place / "hand").glob("*.attributes.json"):
        run = kept.name.partition(".")[0]
        rows = _rows(place, f"SELECT key, number, text FROM attributes WHERE run = '{run}'")
        found = {row["key"]: row["text"] if row["number"] is None else row["number"] for row in rows}
        expected = json.loads(kept.read_text())
        wrong += [
            f"{key} is {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value
        ]
    return wrong
