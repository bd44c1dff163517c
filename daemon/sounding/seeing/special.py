"""Tensors that are not kept as plain values side by side: they are named and left out, never guessed at."""

from collections.abc import Mapping

from sounding.records import Opaque

_MAKERS = ("torch._utils._rebuild_", "torch.nested.", "torch.Tensor", "safetensors.Tensor")
_WORDS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_njt": "a nested tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values, on the meta device",
    "_rebuild_wrapper_subclass": "a tensor of a class that keeps its values in its own way",
    "Tensor": "a conjugated or negated view of another tensor",
}


def is_special(item: object) -> bool:
    """Whether an object is a tensor that is not read as one."""
    return isinstance(item, Opaque) and item.class_name.startswith(_MAKERS)


def why_left_out(item: object) -> str:
    """Why an entry of a state dict is not among its tensors, in words."""
    if not isinstance(item, Opaque):
        return "no tensor" if item is None or isinstance(item, str) else "a number, no tensor"
    dtype = _type(item)
    if dtype:
        return f"of type {dtype}, which is not read"
    kind = item.class_name.rpartition(".")[2]
    return f"{_WORDS.get(kind, f'made by {item.class_name}')}, which is not read"


def _type(item: Opaque) -> str:
    """The element type where that is what is unknown."""
    state = item.state if isinstance(item.state, Mapping) else {}
    args = state.get("args")
    if item.class_name.endswith("_rebuild_tensor_v3") and isinstance(args, tuple) and len(args) == 3:
        return str(args[2])
    return str(state.get("dtype") or "")
