"""Whether a plugin asks for what its subject has: one checkpoint and a whole run offer different things."""

from collections.abc import Callable, Iterable

from sounding.contract import OF_A_RUN, OF_ONE
from sounding.measuring.collecting import AnyPlugin


def out_of_reach(plugin: AnyPlugin, transitive: Callable[[Iterable[str]], tuple[str, ...]]) -> str | None:
    """What is wrong with a plugin's needs, which all exist; `transitive` names everything needed to compute some."""
    whole = plugin.over in ("run", "group")
    foreign = OF_ONE if whole else OF_A_RUN if plugin.over == "pair" else (*OF_A_RUN, "other")
    for need in plugin.needs:
        if not any(root in foreign for root in transitive([need])):
            continue
        if whole:
            return (
                f"needs `{need}`, which a checkpoint has and a {plugin.over} has not; go through `checkpoints` instead"
            )
        over = "pair" if "other" in transitive([need]) else "run"
        return f'needs `{need}`, which only over="{over}" has'
    return None
