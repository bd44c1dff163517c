"""Digests of data: of tensors, arrays and what is built of them, equal in every process and on every device."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sounding.errors import SoundingError


def digest_of(values: Iterable[object]) -> str:
    """Digest of values in order, covering type, dtype, shape and bytes of each.

    Takes tensors, numpy arrays, numbers, texts, None, images with `mode`, `size` and `tobytes` (PIL's), and
    mappings and sequences of these. Raises SoundingError for anything else.
    """
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        _feed(state, value)
    return state.hexdigest()


def _feed(state: Any, value: object) -> None:
    if isinstance(value, torch.Tensor):
        _feed_tensor(state, value)
    elif isinstance(value, np.ndarray | np.generic):
        _feed_array(state, np.asarray(value))
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        text = repr(value).encode()
        state.update(f"{type(value).__name__} {len(text)};".encode() + text)
    elif isinstance(value, Mapping):
        state.update(f"mapping {len(value)};".encode())
        for key in sorted(value, key=str):
            _feed(state, key)
            _feed(state, value[key])
    elif isinstance(value, Sequence):
        state.update(f"sequence {len(value)};".encode())
        for item in value:
            _feed(state, item)
    else:
        _feed_image(state, value)


def _feed_tensor(state: Any, tensor: torch.Tensor) -> None:
    state.update(f"tensor {tensor.dtype} {tuple(tensor.shape)};".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    state.update(flat.view(torch.uint8).numpy().data)


def _feed_array(state: Any, array: Any) -> None:
    if array.dtype.hasobject:
        raise SoundingError(f"an array of Python objects (shape {array.shape}) cannot be hashed; use numbers.")
    state.update(f"array {array.dtype.str} {array.shape};".encode())
    state.update(np.ascontiguousarray(array).tobytes())


def _feed_image(state: Any, value: Any) -> None:
    mode, size, tobytes = (getattr(value, name, None) for name in ("mode", "size", "tobytes"))
    if not callable(tobytes):
        raise SoundingError(
            f"an example holds a {type(value).__name__}, which cannot be hashed; "
            "let the dataset return tensors, arrays, numbers, texts, or dicts and tuples of these."
        )
    state.update(f"image {mode} {size};".encode())
    state.update(tobytes())
