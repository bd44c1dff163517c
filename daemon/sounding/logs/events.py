"""TensorBoard's event files: records with checksums, each an event that may hold scalars. Needs its package."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sounding.logs.entries import Entry, LogError, entry_of
from sounding.logs.lines import Read, Spot

_LONGEST = 64 << 20  # bytes of a record
_MOST_SCALARS = 64 << 10  # bytes; longer records hold images and histograms
_HEAD = struct.Struct("<QI")
_SCALARS = "scalars"
_STEP = "\0step"  # which no tag is called


def read_events(file: BinaryIO, spot: Spot, step_keys: Sequence[str]) -> Iterator[Read]:
    """The scalars of an event file after `spot`, event by event; a record cut short at the end is waited for.

    Raises LogError where the checksums say that bytes were damaged, and where the `tensorboard` package is missing.
    """
    parse, checksum = _package()
    offset = spot.offset
    file.seek(offset)
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, head_sum = _HEAD.unpack(head)
        if checksum(head[:8]) != head_sum or length > _LONGEST:
            raise LogError(f"the record at byte {offset} is damaged")
        body = file.read(length + 4)
        if len(body) < length + 4:
            return
        data, (data_sum,) = body[:length], struct.unpack("<I", body[length:])
        offset += _HEAD.size + length + 4
        if length > _MOST_SCALARS:
            continue
        if checksum(data) != data_sum:
            raise LogError(f"the record that ends at byte {offset} is damaged")
        yield Spot(offset), _entry(parse(data))


def _entry(event: Any) -> Entry | None:
    """The scalars of one event under their tags."""
    found: dict[str, object] = {}
    for value in event.summary.value:
        if value.HasField("simple_value"):
            found[value.tag] = value.simple_value
        elif value.HasField("tensor") and value.metadata.plugin_data.plugin_name == _SCALARS:
            found[value.tag] = _scalar(value.tensor)
    return entry_of({**found, _STEP: event.step}, (_STEP,))


def _scalar(tensor: Any) -> float | None:
    """The one number of a tensor, as newer writers keep scalars; None for any other tensor."""
    for held in (tensor.float_val, tensor.double_val, tensor.int_val, tensor.int64_val):
        if len(held) == 1:
            return float(held[0])
    layout = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}.get(tensor.dtype)  # TensorFlow's numbers of the types
    if layout is None or len(tensor.tensor_content) != struct.calcsize(layout):
        return None
    return float(struct.unpack(layout, tensor.tensor_content)[0])


def _package() -> tuple[Any, Any]:
    """What parses an event, and the masked CRC of its framing."""
    try:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    except ImportError as error:
        raise LogError(
            f"reading TensorBoard events needs its package ({error}): pip install 'sounding[tensorboard]'"
        ) from error
    events: Any = event_pb2  # its classes are made at run time
    return events.Event.FromString, masked_crc32c
