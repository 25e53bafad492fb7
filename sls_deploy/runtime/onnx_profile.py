"""What ONNX Runtime's own profiler says of every node of a graph."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from sls_deploy.runtime.runner import LayerTime

_SUFFIX = "_kernel_time"
"""How the profiler's events that are computations of a node end."""


def profile_session(
    opened: Callable[[str], Any], run: Callable[[Any], None], repeats: int
) -> tuple[LayerTime, ...]:
    """Median time of every node, in the order of execution.

    Args:
        opened: opens a session that writes its profile to a path that begins as it is told.
        run: runs a session once.
        repeats: runs that count; one goes before them.

    Raises:
        SlsError: the graph cannot be opened or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = opened(str(Path(folder) / "profile"))
        try:
            for _ in range(repeats + 1):
                run(session)
        finally:
            path = Path(session.end_profiling())
        events = json.loads(path.read_text("utf-8"))
    return node_times(events)


def node_times(events: list[dict[str, Any]]) -> tuple[LayerTime, ...]:
    """The nodes in the events of a profile; the first time of each is its warm-up and left out."""
    times: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_SUFFIX):
            continue
        told = event["args"]
        node = (event["name"].removesuffix(_SUFFIX), told["op_name"], told["provider"])
        times.setdefault(node, []).append(event["dur"] / 1e3)
    return tuple(
        LayerTime(*node, median(found[1:])) for node, found in times.items() if len(found) > 1
    )
