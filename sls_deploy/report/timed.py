"""What was timed of a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sls_deploy.report.schema import Cost
from sls_deploy.runtime.bench_result import Bench, BenchRow
from sls_deploy.validate.figures import DENSE, SPARSE


def measured_costs(benches: Iterable[Bench]) -> Iterator[Cost]:
    """Times of the sparse network over the dense one's, where the same backend ran both.

    Only PyTorch runs the dense network, so only the sparse network in PyTorch compares with it:
    what an exported file takes less than that may be the backend's doing.
    """
    for bench in benches:
        rows = {row.name: row for row in bench.rows}
        if DENSE not in rows or SPARSE not in rows:
            continue
        dense, sparse = rows[DENSE], rows[SPARSE]
        if (dense.backend, dense.device) != (sparse.backend, sparse.device):
            continue
        size = "x".join(map(str, bench.shape))
        note = (
            f"median time of {sparse.name} ({sparse.timing.p50:.2f} ms) over that of {dense.name} "
            f"({dense.timing.p50:.2f} ms), both fp32 on {place_of(bench, sparse)}, input {size}"
        )
        doubts = [f"{row.name} {row.note}" for row in (sparse, dense) if row.note]
        yield Cost(
            model="measured",
            note="; ".join((note, *doubts)),
            measured=True,
            prunable=None,
            network=sparse.timing.p50 / dense.timing.p50,
        )


def place_of(bench: Bench, row: BenchRow) -> str:
    """What ran a form: the GPU, or the CPU and its threads."""
    if row.device == "cuda" and bench.gpu is not None:
        return bench.gpu.name
    return f"{bench.processor} with {bench.threads} thread{'s' * (bench.threads != 1)}"
