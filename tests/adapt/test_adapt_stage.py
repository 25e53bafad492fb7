from __future__ import annotations

from sls_deploy.adapt.stage import AdaptResult
from sls_deploy.adapt.tradeoff import weight_for_cost
from sls_deploy.run import Run

Adapted = tuple[Run, AdaptResult]


def test_x(adapted: Adapted) -> None:
    run, result = adapted
    print(
        result.adaptation,
        result.calibration.true.mean(0),
        len(result.calibration.true),
        result.seconds,
    )
    t, e = result.calibration.true, result.calibration.estimated
    print(t[:5], e[:5])
    for c in (0.25, 0.3, 0.35, 0.4, 0.45):
        print(weight_for_cost(result.calibration, c))
    assert 0
