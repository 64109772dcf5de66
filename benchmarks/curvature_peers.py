"""The largest eigenvalue of a loss's Hessian, against other libraries, to the same true residual.

    python -m benchmarks.curvature_peers --json benchmarks/results/curvature_peers.json

Each library stops by a rule of its own. So each has a ladder of its tolerances, from loose to tight, and is
timed at the first one at which the true relative residual ``|H v - lambda v| / lambda``, computed by us for
all alike, is within the target. Rounds alternate between the libraries; ratios are of seconds of the same
round. Those that aren't installed, or don't get there, are said.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks import records
from benchmarks.curvature import NETS, batch
from torch import Tensor, nn

from thalweg.curvature import Hessian, lanczos

Found = tuple[float, list[Tensor]]
LADDER = (0.3, 0.1, 0.03, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-8)


def split(flat: Tensor, model: nn.Module) -> list[Tensor]:
    """A long vector in the shapes of the parameters."""
    sizes = [p.numel() for p in model.parameters()]
    return [
        part.reshape(p.shape) for part, p in zip(flat.float().split(sizes), model.parameters(), strict=True)
    ]


def libraries(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[float], Found] | str]:
    """Return of each library what finds the eigenvalue by a tolerance, or why it can't."""
    loss = nn.CrossEntropyLoss()

    def ours(tolerance: float) -> Found:
        found = lanczos(Hessian(model, "cross-entropy", (x, y)), ends="largest", tolerance=tolerance).largest
        return found.value, list(found.vector)

    made: dict[str, Callable[[float], Found] | str] = {"thalweg": ours}
    try:
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import eigsh

        def curvlinops(tolerance: float) -> Found:
            operator = HessianLinearOperator(
                model, loss, list(model.parameters()), [(x, y)], check_deterministic=False
            )
            values, vectors = eigsh(operator.to_scipy(), k=1, which="LA", tol=tolerance)
            return float(values[0]), split(torch.from_numpy(vectors[:, 0]), model)

        made["curvlinops"] = curvlinops
    except ImportError as problem:
        made["curvlinops"] = f"not installed ({problem})"
    try:
        from pyhessian import hessian

        def pyhessian(tolerance: float) -> Found:
            operator = hessian(model, loss, data=(x, y), cuda=False)
            values, vectors = operator.eigenvalues(maxIter=2000, tol=tolerance, top_n=1)
            return float(values[0]), [part.detach() for part in vectors[0]]

        made["PyHessian"] = pyhessian
    except ImportError as problem:
        made["PyHessian"] = f"not installed ({problem})"
    try:
        import hessian_eigenthings as eigenthings

        def their_lanczos(tolerance: float) -> Found:
            operator = eigenthings.HessianOperator(model, [(x, y)], eigenthings.supervised_loss(loss))
            found = eigenthings.lanczos(operator, k=1, max_iter=200, tol=tolerance, which="LA", seed=0)
            return float(found.eigenvalues[0]), split(found.eigenvectors[0], model)

        made["hessian-eigenthings"] = their_lanczos
    except ImportError as problem:
        made["hessian-eigenthings"] = f"not installed ({problem})"
    return made


def quiet(find: Callable[[float], Found], tolerance: float) -> Found:
    """Find it without what a library prints."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return find(tolerance)


def residual(hessian: Hessian, found: Found) -> float:
    """The true relative residual."""
    value, vector = found
    length = float(sum((t**2).sum() for t in vector)) ** 0.5
    apart = [
        a - value * t / length for a, t in zip(hessian @ [t / length for t in vector], vector, strict=True)
    ]
    return float(sum((t**2).sum() for t in apart)) ** 0.5 / abs(value)


def compare(model: nn.Module, x: Tensor, y: Tensor, target: float, rounds: int) -> dict[str, Any]:
    """Find the loosest tolerances that reach the target, and time them by turns."""
    hessian = Hessian(model, "cross-entropy", (x, y))
    rows: dict[str, Any] = {}
    timed: dict[str, tuple[Callable[[float], Found], float]] = {}
    for name, find in libraries(model, x, y).items():
        if isinstance(find, str):
            rows[name] = find
            continue
        for tolerance in LADDER:
            found = quiet(find, tolerance)
            true = residual(hessian, found)
            if true <= target:
                rows[name] = {"value": found[0], "residual": true, "tolerance": tolerance}
                timed[name] = find, tolerance
                break
        else:
            rows[name] = f"doesn't reach it: residual {true:.2g} at its tightest tolerance"
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, (find, tolerance) in timed.items():
            begun = time.perf_counter()
            quiet(find, tolerance)
            seconds[name].append(time.perf_counter() - begun)
    for name, spent in seconds.items():
        rows[name] |= {
            "ms": records.spread(spent, 1e3),
            "times_ours": records.ratio(spent, seconds["thalweg"]),
        }
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--targets", nargs="*", type=float, default=[1e-2, 1e-3])
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = records.begin(
        "curvlinops-for-pytorch", "pyhessian", "hessian-eigenthings", "scipy", rounds=asked.rounds, threads=1
    )
    results["nets"] = {}
    for name in asked.nets:
        torch.manual_seed(0)
        make, shape = NETS[name]
        model = make()
        x, y = batch(shape)
        results["nets"][name] = {}
        for target in asked.targets:
            rows = compare(model, x, y, target, asked.rounds)
            results["nets"][name][f"residual {target:g}"] = rows
            for library, row in rows.items():
                said = row if isinstance(row, str) else f"{records.said(row['times_ours'])} times ours"
                print(f"{name}, residual {target:g}, {library}: {said}", flush=True)
    records.end(results, asked.json)


if __name__ == "__main__":
    main()
