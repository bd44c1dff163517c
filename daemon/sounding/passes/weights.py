"""The pass `weights`: every tensor of a network, mapped from the file and read only where it is touched."""

import math
import re
from collections.abc import Iterator, Mapping

import torch

from sounding.contract import shared_pass
from sounding.errors import SoundingError
from sounding.opening import Opened
from sounding.records import Stored, TensorRef

# Buffers of common layers that are floating point, yet no weights: BatchNorm's statistics, rotary frequencies,
# causal masks, spectral normalisation's vectors.
_BUFFERS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked|inv_freq|masked_bias|weight_[uv]|_[uv])$")


class Weights(Mapping[str, torch.Tensor]):
    """A network's tensors by name, on the CPU, backed by the file: a network larger than memory can be gone through.

    Tensors are read-only by agreement; work on a copy (`tensor.double()`), never in place.
    """

    def __init__(
        self,
        tensors: Mapping[str, Stored | torch.Tensor],
        opened: Opened | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self._refs = tensors
        # Why an entry that may well be trained is not among the parameters: sparse and quantized tensors, complex ones.
        self.left_out: Mapping[str, str] = {**(left_out or {}), **_complex(tensors)}
        self._opened = opened
        self._tensors: dict[str, torch.Tensor] = {}
        self._versions: dict[str, int] = {}
        self.tied: Mapping[str, str] = _tied(tensors)  # name → the first name of the same tensor

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._tensors:
            ref = self._refs[name]
            if not isinstance(ref, torch.Tensor):
                assert self._opened is not None, "tensors that lie in a file come with the opened file"
                ref = self._opened.tensor(ref)
            self._tensors[name] = ref
            self._versions[name] = ref._version
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The trained part: floating-point tensors that are no known buffers, each tied group once, lazily."""
        refs = self._refs
        trained = (name for name in refs if _is_parameter(name, refs[name]) or _is_direction(name, refs))
        return _Chosen(self, [name for name in trained if name not in self.tied])

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; nothing is mapped for it."""
        return tuple(self._refs[name].shape)

    @property
    def ordered(self) -> bool:
        """Whether the names come in the network's own order; safetensors files sort theirs."""
        return not any(isinstance(ref, TensorRef) and ref.file.endswith(".safetensors") for ref in self._refs.values())

    @property
    def dtype(self) -> str:
        """Name of the floating-point type that most parameters are stored in."""
        sizes: dict[str, int] = {}
        for name in self.parameters():
            ref = self._refs[name]
            dtype = str(ref.dtype).removeprefix("torch.")
            sizes[dtype] = sizes.get(dtype, 0) + math.prod(ref.shape)
        return max(sizes, key=lambda dtype: sizes[dtype], default="")

    def changed(self) -> list[str]:
        """Names of tensors handed out that were written to in place since."""
        return [name for name, tensor in self._tensors.items() if tensor._version != self._versions[name]]

    def release(self, name: str) -> None:
        """Give back the memory that a tensor takes; who asks for it again, or still holds it, reads it again.

        For plugins that go through the file once and take their time over each tensor.
        """
        if name in self._tensors and self._tensors[name]._version == self._versions[name]:  # else it is told on
            del self._tensors[name], self._versions[name]
        ref = self._refs[name]
        if self._opened is not None and not isinstance(ref, torch.Tensor):
            self._opened.release(ref)

    def forget(self) -> None:
        """Let go of every tensor handed out; what is asked for again is mapped again."""
        self._tensors.clear()
        self._versions.clear()


class _Chosen(Mapping[str, torch.Tensor]):
    """Some of the weights; each is mapped when it is asked for."""

    def __init__(self, weights: Weights, names: list[str]) -> None:
        self._weights = weights
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@shared_pass(version=1)
def weights(opened: Opened, network: str) -> Weights:
    """Every tensor of the measured network, by its unwrapped name."""
    return network_weights(opened, network)


def network_weights(opened: Opened, network: str) -> Weights:
    """The tensors of one network of a checkpoint; "" is its default one. Raises SoundingError when it is not there."""
    networks = opened.networks
    if not networks:
        raise SoundingError("the checkpoint holds no network: no mapping from names to tensors was found in it.")
    if network and network not in networks:
        raise SoundingError(f"the checkpoint holds no network {network!r}; it holds: {', '.join(networks)}.")
    key = network or next(iter(networks))
    return Weights(networks[key], opened, opened.left_out[key])


def _complex(tensors: Mapping[str, Stored | torch.Tensor]) -> dict[str, str]:
    return {name: "complex, which is not measured" for name, ref in tensors.items() if "complex" in str(ref.dtype)}


def _tied(tensors: Mapping[str, Stored | torch.Tensor]) -> dict[str, str]:
    first: dict[object, str] = {}
    places = {name: _place(ref) for name, ref in tensors.items() if 0 not in ref.shape}
    return {name: first[place] for name, place in places.items() if first.setdefault(place, name) != name}


def _place(ref: Stored | torch.Tensor) -> object:
    if isinstance(ref, TensorRef):
        return (ref.file, ref.storage_start, ref.offset, ref.dtype, ref.shape, ref.stride)
    if not isinstance(ref, torch.Tensor):
        return ref  # put together from several places: the same ones for two names only if they are tied
    return (ref.untyped_storage().data_ptr(), ref.storage_offset(), ref.dtype, ref.shape, ref.stride())


def _is_direction(name: str, refs: Mapping[str, Stored | torch.Tensor]) -> bool:
    """The direction of a weight-normalised weight, which is called as a vector of spectral normalisation is."""
    return name.endswith("weight_v") and f"{name[:-1]}g" in refs


def _is_parameter(name: str, ref: Stored | torch.Tensor) -> bool:
    shape = tuple(ref.shape)
    floating = "float" in str(ref.dtype)
    mask = name.endswith("bias") and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return floating and not mask and not _BUFFERS.search(name)
