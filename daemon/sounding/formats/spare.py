"""Files of checkpoint directories in which there is nothing of a network's weights: the larger part of most."""

import re

_STATES = r"(optimizer|scheduler|rng_state|random_states|custom_checkpoint)(_\d+)*"
# By names, since what is left out must be known before it is read: DeepSpeed's ranks and DCP's shards hold both.
_SPARE = re.compile(rf"{_STATES}(\.[a-z]+|/.+)|global_step\d+/.+")
_FORMATS = frozenset({"trainer directory", "weights directory", "adapter directory", "FSDP directory"})


def is_spare(format_name: str, file: str) -> bool:
    """Whether a network can be read without this file of its checkpoint, named relative to it."""
    return format_name in _FORMATS and _SPARE.fullmatch(file) is not None
