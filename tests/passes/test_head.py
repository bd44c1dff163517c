"""The head is found and proven whatever the network is like, and never taken for proven when it is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from sounding import Run, SoundingError, Tap, Unavailable
from sounding.batch import Batch
from sounding.measuring.traversal import Wanted, traverse
from sounding.passes import Head, Model
from sounding.passes.head import head
from sounding.probe import Probe
from sounding.recipe import Recipe

CLASSES, WIDTH = 5, 8
RUN = Run("lab", "a", {})


def inputs(kind: str, count: int = 12) -> Any:
    generator = torch.Generator().manual_seed(1)
    if kind == "image":
        return torch.randn(count, 3, 9, 9, generator=generator)
    if kind == "tokens":
        return torch.randint(1, 11, (count, 7), generator=generator)
    if kind == "padded":
        tokens = torch.randint(1, 11, (count, 7), generator=generator)
        kept = torch.arange(7) < torch.randint(2, 8, (count, 1), generator=generator)
        return {"input_ids": torch.where(kept, tokens, 0), "attention_mask": kept.long()}
    return torch.randn(count, 6, generator=generator)


def recipe_of(x: Any, **functions: Any) -> Recipe:
    size = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
    probe = Probe(train=(x, torch.zeros(size, dtype=torch.int64)))
    own = {"probe": lambda run: probe, "loss": lambda outputs, targets, inputs: torch.zeros(len(targets)), **functions}
    return Recipe("recipe.py", 1, own)


def found(module: nn.Module, kind: str = "vector", **functions: Any) -> tuple[Head, torch.Tensor, Any]:
    """The head, what enters it (of all batches), and the network's outputs."""
    x = inputs(kind)
    recipe = recipe_of(x, **functions)
    model = Model(module.eval(), recipe, torch.device("cpu"))
    it = head(model, recipe, RUN)
    seen: list[torch.Tensor] = []

    class Keep:
        def update(self, batch: Batch) -> None:
            seen.append(batch.taps["features"].only)

        def result(self) -> None:
            return None

    probe = recipe.probe(RUN)
    result = traverse(model, probe, {"k": Wanted(Keep, taps={"features": Tap.head()})}, head=it, at_most=5)
    assert result["k"] is None, result["k"]
    with torch.no_grad():
        return it, torch.cat(seen), model.outputs(x)


def applied(it: Head, features: torch.Tensor) -> torch.Tensor:
    logits = features @ it.weight.T
    return logits if it.bias is None else logits + it.bias


class Body(nn.Module):
    """A network whose last step is given: `last(module, hidden)`."""

    def __init__(self, last: Callable[[Any, torch.Tensor], Any], **children: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh())
        for name, child in children.items():
            self.add_module(name, child)
        for each in self.parameters():
            nn.init.normal_(each, std=0.7)
        self.last = last

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self, self.stem(x))


class Images(nn.Module):
    """As torchvision's: a convolution, then what is given."""

    def __init__(self, last: Callable[[Any, torch.Tensor], Any], **children: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.features = nn.Sequential(nn.Conv2d(3, WIDTH, 3, stride=2), nn.BatchNorm2d(WIDTH), nn.ReLU())
        for name, child in children.items():
            self.add_module(name, child)
        self.last = last

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self, self.features(x))


class Language(nn.Module):
    """As transformers': a dict of inputs or token ids, an embedding, then what is given."""

    def __init__(self, last: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.wte = nn.Embedding(11, WIDTH)
        self.block = nn.Linear(WIDTH, WIDTH)
        for name, child in children.items():
            self.add_module(name, child)
        self.last = last

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        hidden = torch.tanh(self.block(self.wte(input_ids))) + torch.arange(7.0)[:, None] / 7
        return self.last(self, hidden, attention_mask)


def linear(bias: bool = True, outputs: int = CLASSES) -> nn.Linear:
    return nn.Linear(WIDTH, outputs, bias=bias)


def last_token(module: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hugging Face's sequence classifiers: logits of every token, of which one per sequence is taken."""
    return module.score(hidden)[torch.arange(len(hidden)), mask.sum(1) - 1]


class Classifier(Images):
    """As timm's, which say what their classifier is."""

    def get_classifier(self) -> nn.Module:
        return self.fc


PLAIN = {
    "a plain linear layer": (Body(lambda m, h: m.fc(h), fc=linear()), "vector", "fc"),
    "without bias": (Body(lambda m, h: m.fc(h), fc=linear(bias=False)), "vector", "fc"),
    "what follows it in the list does not count": (
        Body(lambda m, h: (m.fc(h), m.other(h))[0], fc=linear(), other=linear()), "vector", "fc",
    ),
    "one output, squeezed": (Body(lambda m, h: m.fc(h).squeeze(1), fc=linear(outputs=1)), "vector", "fc"),
    "in a dict, as transformers": (Body(lambda m, h: {"x": h, "logits": m.fc(h)}, fc=linear()), "vector", "fc"),
    "in a tuple": (Body(lambda m, h: (h, m.fc(h)), fc=linear()), "vector", "fc"),
    "called twice": (Body(lambda m, h: (m.fc(h * 2), m.fc(h))[1], fc=linear()), "vector", "fc"),
    "written over afterwards": (
        Body(lambda m, h: (m.fc(h), h.zero_())[0], fc=linear()), "vector", "fc",
    ),
    "resnet": (Images(lambda m, h: m.fc(h.mean((2, 3))), fc=linear()), "image", "fc"),
    "vgg": (
        Images(lambda m, h: m.classifier(h.mean((2, 3))),
               classifier=nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(), linear())),
        "image", "classifier.3",
    ),
    "googlenet, with classifiers besides": (
        Images(lambda m, h: (m.fc(h.mean((2, 3))), m.aux(h.amax((2, 3))))[0], fc=linear(), aux=linear()), "image", "fc",
    ),
    "a 1×1 convolution after pooling": (
        Images(lambda m, h: m.head(h.mean((2, 3), keepdim=True)).flatten(1), head=nn.Conv2d(WIDTH, CLASSES, 1)),
        "image", "head",
    ),
    "a 1×1 convolution before pooling": (
        Images(lambda m, h: m.head(h).mean((2, 3)), head=nn.Conv2d(WIDTH, CLASSES, 1)), "image", "head",
    ),
    "timm says which it is": (
        Classifier(lambda m, h: m.fc(h.mean((2, 3))), fc=linear()), "image", "fc",
    ),
    "logits averaged over tokens": (Language(lambda m, h, _: m.score(h).mean(1), score=linear()), "tokens", "score"),
    "the last token's logits are taken": (Language(last_token, score=linear(bias=False)), "padded", "score"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLAIN)
def test_weights_times_features_are_the_logits(case: str):
    module, kind, name = PLAIN[case]
    it, features, outputs = found(module, kind)
    if isinstance(outputs, tuple):
        outputs = outputs[1]
    assert (it.name, it.verified) == (name, True)
    assert features.shape == (12, WIDTH)
    assert (it.classes, it.width) == (outputs.shape[1] if outputs.ndim > 1 else 1, WIDTH)
    logits = applied(it, features)
    assert torch.allclose(logits.squeeze(1) if outputs.ndim == 1 else logits, outputs, rtol=1e-5, atol=1e-6)


def test_how_it_was_found_and_how_often_it_runs():
    assert found(*PLAIN["timm says which it is"][:2])[0].how == "get_classifier()"
    it, _, _ = found(*PLAIN["called twice"][:2])
    assert it.calls == 2
    assert "called 2 times, the last one counts" in it.how


LINKS = {
    "a log-softmax": (Body(lambda m, h: m.fc(h).log_softmax(1), fc=linear()), "log-softmax", torch.log_softmax),
    "a softmax": (Body(lambda m, h: m.fc(h).softmax(1), fc=linear()), "softmax", torch.softmax),
    "a softcap": (
        Body(lambda m, h: 3 * torch.tanh(m.fc(h) / 3), fc=linear()), "softcapped at 3", lambda z, _: 3 * (z / 3).tanh(),
    ),
    "a factor": (Body(lambda m, h: 0.125 * m.fc(h), fc=linear()), "times 0.125", lambda z, _: z),
}  # fmt: skip


@pytest.mark.parametrize("case", LINKS)
def test_what_keeps_the_order_of_the_logits_is_recognised(case: str):
    module, words, link = LINKS[case]
    it, features, outputs = found(module)
    assert it.verified
    assert words in it.how
    assert torch.allclose(link(applied(it, features), 1), outputs, rtol=1e-4, atol=1e-6)


def test_a_tied_unembedding_gives_features_of_every_token():
    module = Language(lambda m, h, _: m.lm_head(h), lm_head=linear(bias=False, outputs=11))
    module.lm_head.weight = module.wte.weight
    module.get_output_embeddings = lambda: module.lm_head  # type: ignore[assignment]
    it, features, outputs = found(module, "tokens")
    assert (it.name, it.how, features.shape) == ("lm_head", "get_output_embeddings()", (12, 7, WIDTH))
    assert torch.allclose(applied(it, features), outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cut", "kept"),
    [(lambda logits: logits[:, :-1], slice(None, -1)), (lambda logits: logits[:, 1:], slice(1, None))],
)
def test_positions_that_the_recipe_leaves_out(cut: Any, kept: slice):
    module = Language(lambda m, h, _: m.lm_head(h), lm_head=linear(outputs=11))
    it, features, outputs = found(module, "tokens", forward=lambda model, x: cut(model(x)))
    assert features.shape == (12, 6, WIDTH)
    assert torch.allclose(applied(it, features), outputs, rtol=1e-5, atol=1e-6)


def test_positions_flattened_and_logits_with_classes_in_the_second_place():
    flat = Language(lambda m, h, _: m.head(h.flatten(0, 1)).unflatten(0, (-1, 7)), head=linear())
    it, features, outputs = found(flat, "tokens")
    assert features.shape == (12, 7, WIDTH)
    assert torch.allclose(applied(it, features), outputs, rtol=1e-5, atol=1e-6)
    it, features, outputs = found(Images(lambda m, h: m.head(h), head=nn.Conv2d(WIDTH, CLASSES, 1)), "image")
    assert features.shape == (12, 16, WIDTH)
    assert torch.allclose(applied(it, features), outputs.flatten(2).mT, rtol=1e-4, atol=1e-6)


def test_half_precision_weights_come_as_float32():
    it, _, _ = found(Body(lambda m, h: m.fc(h), fc=linear()).bfloat16(), forward=lambda m, x: m(x.bfloat16()))
    assert it.verified
    assert it.weight.dtype == torch.float32


class Cosine(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(functional.normalize(x), functional.normalize(self.weight))


class Distilled(Body):
    """As timm's distilled networks: the mean of two classifiers, both of which it names."""

    def get_classifier(self) -> Any:
        return self.one, self.two


class Functional(Body):
    def __init__(self) -> None:
        super().__init__(lambda m, h: functional.linear(h, m.weight))
        self.weight = nn.Parameter(torch.randn(CLASSES, WIDTH))


UNPROVEN = {
    "squeezenet: relu and pooling after it": (
        Images(lambda m, h: m.head(h).relu().mean((2, 3)), head=nn.Conv2d(WIDTH, CLASSES, 1)), "image", '"head"',
    ),
    "the mean of two": (
        Distilled(lambda m, h: (m.one(h) + m.two(h.relu())) / 2, one=linear(), two=linear()), "vector", '"two"',
    ),
    "a cosine classifier": (Body(lambda m, h: m.fc(h), fc=Cosine(WIDTH, CLASSES)), "vector", '"fc"'),
    "the same layer twice, added": (
        Body(lambda m, h: m.fc(h) + m.fc(h.relu()), fc=linear()), "vector", '"fc"',
    ),
    "the first of two calls": (Body(lambda m, h: (m.fc(h), m.fc(h.relu()))[0], fc=linear()), "vector", '"fc"'),
    "logits normalised": (Body(lambda m, h: functional.layer_norm(m.fc(h), (CLASSES,)), fc=linear()), "vector", '"fc"'),
    "weights without a layer": (Functional(), "vector", '"name of that layer"'),
    "diverged": (Body(lambda m, h: m.fc(h) * torch.nan, fc=linear()), "vector", '"fc"'),
}  # fmt: skip


@pytest.mark.parametrize("case", UNPROVEN)
def test_what_cannot_be_proven_is_not_taken_and_the_line_to_write_is_told(case: str):
    module, kind, line = UNPROVEN[case]
    with pytest.raises(Unavailable, match="head was not found") as caught:
        found(module, kind)
    assert f"write in recipe.py:\ndef head(model): return {line}" in str(caught.value)


def test_weights_that_are_all_zero_prove_nothing():
    module = Images(lambda m, h: m.head(h).relu().mean((2, 3)), head=nn.Conv2d(WIDTH, CLASSES, 1))
    nn.init.zeros_(module.head.weight)
    for bias in (0.0, 1.0):
        nn.init.constant_(module.head.bias, bias)
        with pytest.raises(Unavailable, match=r"the weights of `head` are all zero.*\n.*return \"head\""):
            found(module, "image")
    it, features, _ = found(module, "image", head=lambda model: "head")
    assert (it.verified, features.shape) == (False, (12, WIDTH))


def test_a_head_that_the_recipe_names_is_taken_and_said_not_to_be_proven():
    module, kind, _ = UNPROVEN["squeezenet: relu and pooling after it"]
    it, features, _ = found(module, kind, head=lambda model: "head")
    assert not it.verified
    assert "the recipe, and its W x + b does not give the logits" in it.how
    assert features.shape == (12, WIDTH)
    with torch.no_grad():
        assert torch.allclose(features, module.features(inputs("image")).mean((2, 3)), atol=1e-6)


def test_a_head_that_the_recipe_names_is_proven_where_it_can_be():
    module = Body(lambda m, h: m.fc(h), fc=linear())
    for given in ("fc", module.fc):
        it, _, _ = found(module, head=lambda model, given=given: given)
        assert (it.name, it.verified, it.how) == ("fc", True, "the recipe")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("fcc", "returned 'fcc', and the network has no such module; the last ones that it runs are: stem.0, fc"),
        ("stem.1", "which the network does not run, or which has no weights"),
        ("spare", "which the network does not run"),
        (3, "returned a int, expected the name"),
    ],
)
def test_a_recipe_that_names_what_is_no_head(given: Any, words: str):
    module = Body(lambda m, h: m.fc(h), fc=linear(), spare=linear())
    with pytest.raises(SoundingError) as caught:
        found(module, head=lambda model: given)
    assert words in str(caught.value)


def test_looking_for_it_leaves_no_trace():
    module = Images(lambda m, h: m.fc(h.mean((2, 3))), fc=linear()).train()
    recipe = recipe_of(inputs("image"))
    before = {name: each.clone() for name, each in module.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    head(Model(module, recipe, torch.device("cpu")), recipe, RUN)
    assert torch.equal(torch.rand(1), expected)
    assert module.training
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
