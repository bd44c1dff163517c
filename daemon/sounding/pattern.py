"""Path patterns such as `{run}/ckpt_{step}.pt`: which paths are checkpoints, and what their names tell.

A part is `{name}` or `{name:type}` with type `int`, `float` or `str`; `step`, `updates`, `epoch`, `tokens` and
`examples` are whole numbers unless said otherwise (`step` always is), everything else is text. A part never crosses a
`/`; `*` matches anything within one path component.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sounding.errors import SoundingError

PROGRESS = ("step", "updates", "epoch", "tokens", "examples")

_ORDERING = ("step", "updates", "epoch")  # the first of these that is a whole number orders the run
_PART = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}|(\*)")
_EXPRESSIONS = {
    "int": r"\d{1,18}",  # what the results can hold; a name with more digits is no checkpoint's
    "float": r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?",
    "str": r"[^/]+?",
}
_EXAMPLE = '"{run}/ckpt_{step}.pt"'

type_of = {"int": int, "float": float, "str": str}


@dataclass(frozen=True, slots=True)
class Match:
    """What a path tells: its run, its step where the pattern has one, and every other part by name."""

    run: str
    step: int | None
    parts: Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern: one regular expression per path component, matched from the store's root downwards."""

    text: str
    components: tuple[re.Pattern[str], ...]
    types: Mapping[str, str]
    run_template: str | None
    default_run: str

    def match(self, relative: str) -> Match | None:
        """Match a whole path relative to the store; None when it is not a checkpoint by name.

        A part that occurs twice must have the same text both times.
        """
        names = relative.split("/")
        if len(names) != len(self.components):
            return None
        found: dict[str, str] = {}
        for expression, name in zip(self.components, names, strict=True):
            matched = expression.fullmatch(name)
            if matched is None:
                return None
            for part, text in matched.groupdict().items():
                if found.setdefault(part, text) != text:
                    return None
        return self._interpret(found)

    def _interpret(self, found: Mapping[str, str]) -> Match:
        values: dict[str, int | float | str] = {part: type_of[self.types[part]](text) for part, text in found.items()}
        run = self.run_template.format(**found) if self.run_template else found.get("run", self.default_run)
        ordering = next((int(found[name]) for name in _ORDERING if self.types.get(name) == "int"), None)
        parts = {name: value for name, value in values.items() if name not in ("run", "step")}
        return Match(run, ordering, parts)


def compile_pattern(text: str, default_run: str, run_template: str | None = None) -> Pattern:
    """Compile a pattern; `run_template`, such as "lr{lr}_s{seed}", names runs from other parts.

    Raises SoundingError when the pattern is malformed.
    """
    names = text.removesuffix("/").split("/")
    if any(name in ("", ".", "..") for name in names):
        raise SoundingError(f"pattern {text!r}: expected a path below the store, such as {_EXAMPLE}.")
    types: dict[str, str] = {}
    components = tuple(_component(text, name, types) for name in names)
    if run_template is not None:
        _check_template(run_template, text, types)
    return Pattern(text, components, types, run_template, default_run)


def _check_template(template: str, pattern: str, types: Mapping[str, str]) -> None:
    for part in re.findall(r"\{([^{}]*)\}", template):
        if part not in types:
            raise SoundingError(
                f"run = {template!r}: no part {{{part}}} in pattern {pattern!r}; parts are {sorted(types)}."
            )
    rest = re.sub(r"\{[^{}]*\}", "", template)
    if not template or "{" in rest or "}" in rest:
        raise SoundingError(f'run = {template!r}: expected a name made of parts, such as "lr{{lr}}_s{{seed}}".')


def _component(pattern: str, component: str, types: dict[str, str]) -> re.Pattern[str]:
    if "**" in component:
        raise SoundingError(f"pattern {pattern!r}: `**` is not understood; write one `*` for each directory.")
    expression, end, seen = "", 0, set[str]()
    for part in _PART.finditer(component):
        expression += _literal(pattern, component[end : part.start()])
        end = part.end()
        if part[3]:
            expression += "[^/]*"
            continue
        name = part[1]
        kind = part[2] or types.get(name) or ("int" if name in PROGRESS else "str")
        if kind not in _EXPRESSIONS:
            raise SoundingError(f"pattern {pattern!r}: unknown type in {part[0]}; expected int, float or str.")
        if name == "step" and kind != "int":
            raise SoundingError(f"pattern {pattern!r}: {part[0]} is a whole number; write {{step}}, as in {_EXAMPLE}.")
        if types.setdefault(name, kind) != kind:
            raise SoundingError(f"pattern {pattern!r}: {{{name}}} is both {types[name]} and {kind}; give it one type.")
        expression += f"(?P={name})" if name in seen else f"(?P<{name}>{_EXPRESSIONS[kind]})"
        seen.add(name)
    return re.compile(expression + _literal(pattern, component[end:]))


def _literal(pattern: str, text: str) -> str:
    if "{" in text or "}" in text:
        raise SoundingError(f"pattern {pattern!r}: {text!r} is not a part; expected a form such as {_EXAMPLE}.")
    return re.escape(text)


def is_text(name: str) -> bool:
    """Whether the name can be written down; the others, from file systems of old, hold bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
