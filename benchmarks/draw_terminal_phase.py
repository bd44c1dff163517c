"""Draw docs/plots/terminal_phase.svg from the readings in benchmarks/results/terminal_phase.json."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COLOURS = ("#2563a8", "#c2571a")
PANELS = (
    ("NC1: tr(Σ_W Σ_B†)/C", "nc1_pinv", True),
    ("NC2: angles, mean |cos + 1/(C−1)|", "nc2_angle_means", False),
    ("NC2: ETF error of class means", "nc2_etf_error_means", False),
    ("NC3: ‖W/‖W‖ − M̃/‖M̃‖‖", "nc3_self_duality", False),
    ("NC4: disagreement with nearest mean (fraction)", "nc4_disagreement", False),
    ("training error (fraction)", "train_accuracy", False),
)
WIDTH, HEIGHT, LEFT, TOP = 300, 190, 52, 34  # of a panel's axes, and the space before and above them
ACROSS = 3


def main() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "terminal_phase.json").read_text())
    place = ROOT / "docs" / "plots" / "terminal_phase.svg"
    place.parent.mkdir(exist_ok=True)
    place.write_text("\n".join(drawing(kept)) + "\n", encoding="utf-8")


def drawing(kept: Mapping[str, Any]) -> Iterator[str]:
    full = (ACROSS * (WIDTH + LEFT + 20) + 10, 2 * (HEIGHT + TOP + 40) + 30)
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full[0]} {full[1]}" font-family="sans-serif">'
    yield f'<rect width="{full[0]}" height="{full[1]}" fill="white"/>'
    for number, (title, metric, logarithmic) in enumerate(PANELS):
        x = LEFT + (number % ACROSS) * (WIDTH + LEFT + 20)
        y = TOP + (number // ACROSS) * (HEIGHT + TOP + 40)
        yield f'<g transform="translate({x},{y})" font-size="12">'
        yield from panel(kept, title, metric, logarithmic)
        yield "</g>"
    x = LEFT
    for setting, colour in zip(kept["settings"], COLOURS, strict=True):
        yield f'<text x="{x}" y="{full[1] - 12}" font-size="13" fill="{colour}">— {setting["name"]}</text>'
        x += 240
    words = "solid: train, dashed: held out; a line for every seed; epochs on a logarithmic scale"
    yield f'<text x="{x}" y="{full[1] - 12}" font-size="13" fill="#555">{words}</text></svg>'


def panel(kept: Mapping[str, Any], title: str, metric: str, logarithmic: bool) -> Iterator[str]:
    lines = list(curves(kept, metric))
    values = [value for *_, points in lines for _, value in points]
    low, high = (min(values), max(values)) if logarithmic else (0.0, max(values))
    last = kept["epochs"]

    def at(epoch: float, value: float) -> str:
        share = math.log(value / low) / math.log(high / low) if logarithmic else value / high
        return f"{WIDTH * math.log1p(epoch) / math.log1p(last):.1f},{HEIGHT * (1 - share):.1f}"

    yield f'<text y="-10" font-size="13">{title}</text>'
    yield f'<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="#888"/>'
    for value in ticks(low, high, logarithmic):
        x, y = at(0, value).split(",")
        yield f'<path d="M{x} {y}h{WIDTH}" stroke="#eee"/>'
        yield f'<text x="-6" y="{float(y) + 4}" text-anchor="end">{value:g}</text>'
    for epoch in (0, 1, 3, 10, 30, 100, last):
        x, y = at(epoch, high).split(",")
        yield f'<text x="{x}" y="{HEIGHT + 16}" text-anchor="middle">{epoch or "epoch 0"}</text>'
    for colour, dashed, points in lines:
        style = f'fill="none" stroke="{colour}" stroke-width="1.4"' + (' stroke-dasharray="4 3"' if dashed else "")
        yield f'<polyline {style} points="{" ".join(at(*point) for point in points)}"/>'


def curves(kept: Mapping[str, Any], metric: str) -> Iterator[tuple[str, bool, list[tuple[float, float]]]]:
    names = [setting["name"] for setting in kept["settings"]]
    for run in kept["runs"]:
        colour = COLOURS[names.index(run["setting"])]
        if metric == "train_accuracy":
            yield colour, False, [(row["epoch"], 1 - row[metric]) for row in run["readings"]]
            continue
        for split in ("heldout", "train"):
            yield colour, split == "heldout", [(row["epoch"], row[f"{metric}:{split}"]) for row in run["readings"]]


def ticks(low: float, high: float, logarithmic: bool) -> Sequence[float]:
    if logarithmic:
        return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    unit = 10.0 ** math.floor(math.log10(high) - 1)
    step = next(unit * factor for factor in (1, 2, 5, 10, 20, 50) if high / (unit * factor) <= 5)
    return [round(step * number, 12) for number in range(int(high / step) + 1)]


if __name__ == "__main__":
    main()
