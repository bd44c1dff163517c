"""Checkpoint formats: one module each, none of which imports torch."""

from pathlib import Path

from sounding.formats import (
    adapter_directory,
    deepspeed,
    distributed,
    fsdp_directory,
    legacy,
    safetensors,
    torch_zip,
    trainer_directory,
    weights_directory,
)
from sounding.formats.proof import Format

# Asked in this order; the first that claims a path has it.
FORMATS: tuple[Format, ...] = (
    distributed.FORMAT,
    deepspeed.FORMAT,
    trainer_directory.FORMAT,
    adapter_directory.FORMAT,
    fsdp_directory.FORMAT,
    weights_directory.FORMAT,
    safetensors.FORMAT,
    legacy.FORMAT,
    torch_zip.FORMAT,
)


def format_of(path: Path) -> Format | None:
    """The format that claims a path, None when none does."""
    return next((candidate for candidate in FORMATS if candidate.claims(path)), None)
