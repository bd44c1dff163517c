"""Which optimizer wrote a state: told by the keys it keeps, since checkpoints do not name the class."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

UNKNOWN = "unknown"
EITHER_ADAM = "adam or adamw"


@dataclass(frozen=True)
class _Mark:
    """Keys that a parameter's state has, and those a group's settings have and lack."""

    name: str
    state: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()  # from the settings

    def fits(self, state: frozenset[str], settings: frozenset[str]) -> bool:
        return self.state <= state and self.settings <= settings and not self.absent & settings


def _mark(name: str, state: str = "", settings: str = "", absent: str = "") -> _Mark:
    return _Mark(name, *(frozenset(keys.split()) for keys in (state, settings, absent)))


# The first that fits wins, so the more particular come first. In each line: keys of a parameter's state; of a group.
_MARKS = (
    _mark("soap", "GG Q"),
    _mark("soap", "exp_avg", "shampoo_beta precondition_frequency"),
    _mark("shampoo", "", "update_freq epsilon momentum"),
    _mark("shampoo", "", "max_preconditioner_dim"),
    _mark("shampoo", "", "preconditioning_compute_steps"),
    _mark("shampoo", "pre_cond_0 inv_pre_cond_0"),
    _mark("shampoo", "pre_conditioner graft"),
    _mark("adan", "exp_avg exp_avg_sq exp_avg_diff"),
    _mark("adan", "prev_grad m v n"),
    _mark("adafactor", "", "beta2_decay d"),
    _mark("adafactor", "", "decay_rate clip_threshold"),
    _mark("adafactor", "exp_avg_sq_row exp_avg_sq_col"),
    _mark("adafactor", "", "beta2_cap clipping_threshold"),
    _mark("adamw", "moment1 moment2", "adamw_betas"),  # the other parameters of a Muon that brings its own AdamW
    _mark("muon", "momentum_buffer", "ns_steps"),
    _mark("muon", "momentum_buffer", "backend_steps"),
    _mark("muon", "momentum_buffer", "use_muon"),
    _mark("adamw", "exp_avg exp_avg_sq", "use_muon"),
    _mark("adamp", "exp_avg exp_avg_sq", "delta wd_ratio"),
    _mark("novograd", "exp_avg exp_avg_sq", "grad_averaging amsgrad"),
    _mark("lamb", "exp_avg exp_avg_sq", "grad_averaging"),
    # These keep what Adam keeps, and do something else with it.
    _mark("mars", "exp_avg exp_avg_sq last_grad"),
    _mark("laprop", "exp_avg exp_avg_sq exp_avg_lr_1"),
    _mark("adopt", "exp_avg exp_avg_sq", "clip_exp"),
    _mark("adai", "exp_avg exp_avg_sq beta1_prod"),
    _mark("nadam", "exp_avg exp_avg_sq", "momentum_decay"),
    _mark("radam", "exp_avg exp_avg_sq", "decoupled_weight_decay", absent="amsgrad"),
    _mark("adam", "exp_avg exp_avg_sq", "betas decoupled_weight_decay"),
    _mark("adamw", "exp_avg exp_avg_sq", "betas correct_bias"),
    _mark(EITHER_ADAM, "exp_avg exp_avg_sq", "betas"),
    _mark("adamax", "exp_avg exp_inf"),
    _mark("adadelta", "square_avg acc_delta", "rho"),
    _mark("rmsprop", "square_avg", "alpha"),
    _mark("adagrad", "sum", "lr_decay"),
    _mark("sgdp", "", "momentum dampening delta wd_ratio"),
    _mark("lars", "", "momentum dampening trust_coeff"),
    _mark("sgdw", "", "momentum dampening weight_decouple"),
    _mark("sgdw", "", "momentum dampening corrected_weight_decay"),
    _mark("sgd", "momentum_buffer", "momentum dampening"),
    _mark("sgd", "", "momentum dampening nesterov"),
)  # fmt: skip
_BARE_MUON = frozenset({"lr", "momentum", "weight_decay"})  # all that the original Muon's groups hold
_ANYBODYS = frozenset({"initial_lr", "params", "param_names"})  # put into groups by torch itself


def recognise(kept: Iterable[str], settings: Mapping[str, object]) -> str:
    """An optimizer's name from the keys `kept` per parameter and from a group's settings; "unknown" otherwise."""
    state, keys = frozenset(kept), frozenset(settings)
    name = next((mark.name for mark in _MARKS if mark.fits(state, keys)), UNKNOWN)
    if name == "adam" and settings.get("decoupled_weight_decay"):
        return "adamw"
    if name == UNKNOWN and state - {"step"} == {"exp_avg"} and "betas" in keys:
        return "lion"
    if name == UNKNOWN and state == {"momentum_buffer"} and keys - _ANYBODYS == _BARE_MUON:
        return "muon"
    return name


# Whether weight decay shrinks the weights by itself (decoupled) or is added to the gradient; None: nobody can tell.
_DECOUPLED = {
    "adamw": True, "sgdw": True, "lion": True, "muon": True, "soap": True, "adan": True, "adafactor": True,
    "sgd": False, "adam": False, "rmsprop": False, "adagrad": False, "adadelta": False, "adamax": False,
}  # fmt: skip


def is_decoupled(name: str, settings: Mapping[str, object]) -> bool | None:
    """Whether the named optimizer's weight decay acts on the weights alone; None where that cannot be known."""
    if settings.get("fixed_decay") or settings.get("corrected_weight_decay"):
        return None  # decoupled, but from the learning rate as well, or in proportion to its square
    told = next((key for key in ("weight_decouple", "decoupled_decay") if key in settings), None)
    if told is not None:
        return bool(settings[told])
    if name in ("nadam", "radam"):
        return bool(settings.get("decoupled_weight_decay"))
    return _DECOUPLED.get(name)
