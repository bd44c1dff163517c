"""Eigenvalues of a subject's Hessian by the packages that others would use: JSON on the last line of standard output.

Arguments: the subject's file, which program, and the number of Lanczos steps where one must be given.
"""

import json
import sys
import warnings

import torch

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402  warnings must be off before
from curvature_subjects import Subject, opened, timed  # noqa: E402

TOP = 5


def curvlinops(subject: Subject, **settings: object) -> dict[str, object]:
    """`eigsh` on the package's operator, as its documentation shows."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    parameters = [each for each in subject.model.parameters() if each.requires_grad]

    class Loss(torch.nn.CrossEntropyLoss):
        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return super().forward(outputs.flatten(0, -2), targets.flatten())

    tuned = bool(settings)
    operator = HessianLinearOperator(
        subject.model, Loss(), parameters, [(subject.inputs, subject.targets)], check_deterministic=not tuned
    ).to_scipy()
    return {"top": sorted(eigsh(operator, k=TOP, which="LA", **settings)[0].tolist(), reverse=True)}


def eigenthings(subject: Subject, steps: int) -> dict[str, object]:
    """Its Lanczos with the right number of steps."""
    from hessian_eigenthings import HessianOperator, lanczos
    from hessian_eigenthings.loss_fns import supervised_loss

    torch.manual_seed(0)
    batches = [(subject.inputs, subject.targets)]
    operator = HessianOperator(subject.model, batches, supervised_loss(subject.loss))
    steps = min(steps, operator.size)
    found = lanczos(operator, k=min(TOP, steps), max_iter=steps, which="LA")
    return {"top": sorted(found.eigenvalues.tolist(), reverse=True)}


def pyhessian(subject: Subject) -> dict[str, object]:
    """Its three calls with their defaults; `torch.eig`, which it needs, is put back."""
    from pyhessian import hessian

    def eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    torch.eig = eig
    torch.manual_seed(0)
    found = hessian(subject.model, subject.loss, data=(subject.inputs, subject.targets), cuda=False)
    top = found.eigenvalues(top_n=TOP)[0]
    trace = found.trace()
    nodes, weights = found.density()
    return {
        "top": sorted(top, reverse=True),
        "trace": float(np.mean(trace)),
        "probes": len(trace),
        "nodes": [float(each) for each in nodes[0]],
        "weights": [float(each) for each in weights[0]],
    }


def truth(path: str) -> dict[str, object]:
    """The same in float64, by a double backward pass written down here, to a millionth."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    subject = opened(path, torch.float64)
    parameters = [each for each in subject.model.parameters() if each.requires_grad]
    loss = subject.loss(subject.model(subject.inputs), subject.targets)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([each.reshape(-1) for each in gradients])

    def product(vector: np.ndarray) -> np.ndarray:
        given = torch.as_tensor(vector).reshape(-1)
        found = torch.autograd.grad(flat, parameters, given, retain_graph=True)
        return torch.cat([each.reshape(-1) for each in found]).numpy()

    operator = LinearOperator((len(flat), len(flat)), matvec=product, dtype=np.float64)
    top = eigsh(operator, k=TOP, which="LA", ncv=24, tol=1e-6)[0]
    generator = torch.Generator().manual_seed(7)
    samples = []
    for _ in range(TRACES[sys.argv[3]]):
        signs = torch.randint(0, 2, (len(flat),), generator=generator).double().mul_(2).sub_(1).numpy()
        samples.append(float(signs @ product(signs)))
    error = float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
    return {
        "top": sorted(top.tolist(), reverse=True), "trace": float(np.mean(samples)), "trace_error": error,
        "parameters": len(flat),
    }  # fmt: skip


TRACES = {"mlp": 200, "resnet20": 30, "gpt": 10}
PROGRAMS = {
    "curvlinops as documented": lambda subject: curvlinops(subject),
    "curvlinops well tuned": lambda subject: curvlinops(subject, tol=1e-3, ncv=12),
    "hessian-eigenthings": lambda subject: eigenthings(subject, int(sys.argv[3])),
    "pyhessian": pyhessian,
}


def main() -> None:
    torch.set_num_threads(1)
    path, program = sys.argv[1], sys.argv[2]
    print(json.dumps(truth(path) if program == "truth" else timed(PROGRAMS[program], path)))


if __name__ == "__main__":
    main()
