"""What TensorRT's own log says of sparse kernels: how many layers, and which."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_ELIGIBLE = re.compile(
    r"\(Sparsity\) (?:Found (?P<count>\d+) layer\(s\) eligible to use sparse tactics"
    r"|Layers eligible for sparse math)(?P<names>:.*)?$"
)
_CHOSEN = re.compile(
    r"\(Sparsity\) (?:Chose (?P<count>\d+) layer\(s\) using sparse tactics"
    r"|TRT inference plan picked sparse implementation for layers)(?P<names>:.*)?$"
)
"""Forms of TensorRT 10 and 11, and of 8."""
_PARTS = re.compile(r" \+ | \|\| ")
"""Between the layers that TensorRT computes in one: after each other, or side by side."""
_MADE = re.compile(r"_myl\d*_\d+$")
"""What Myelin, the compiler inside TensorRT, puts behind the name of a node: '_myl0_3'."""
_NUMBERED = re.compile(r"_U\d+$")
_METADATA = re.compile(r"\[ONNX Layer: ([^\]\x1e]*)\]")


@dataclass(frozen=True)
class SparsityLog:
    """What TensorRT said when it built on a GPU; None where it said nothing."""

    eligible: int | None = None
    """Layers that it found eligible for sparse kernels."""
    chosen: int | None = None
    """Layers that it runs with a sparse kernel."""
    eligible_names: tuple[str, ...] = ()
    """Those that it named as eligible, in its own words; it may name none."""
    chosen_names: tuple[str, ...] = ()
    """Those that it named as chosen."""


def read_sparsity_log(lines: Iterable[str]) -> SparsityLog:
    """Read counts and names from lines of TensorRT 8 to 11; the last of several passes counts.

    Args:
        lines: messages such as '(Sparsity) Found 3 layer(s) eligible to use sparse tactics: ...',
            also with the time and the level that trtexec prints in front.
    """
    eligible: int | None = None
    chosen: int | None = None
    eligible_names: tuple[str, ...] = ()
    chosen_names: tuple[str, ...] = ()
    for line in lines:
        if match := _ELIGIBLE.search(line.rstrip()):
            eligible, eligible_names = _told(match)
        elif match := _CHOSEN.search(line.rstrip()):
            chosen, chosen_names = _told(match)
    return SparsityLog(eligible, chosen, eligible_names, chosen_names)


def nodes_of(name: str) -> tuple[str, ...]:
    """The nodes of the graph that a layer of TensorRT computes, by its name.

    Args:
        name: such as 'conv1 + relu1', 'conv1 || conv2', 'conv1_myl0_3' or 'conv1_U4_myl0_3', also
            with metadata such as '[ONNX Layer: conv1]' behind, which then decides.
    """
    if named := _METADATA.findall(name):
        return tuple(named)
    return tuple(form for part in _PARTS.split(name) for form in _plain(part.strip()))


def is_named(
    node: str, names: Iterable[str], count: int | None, nodes: Collection[str]
) -> bool | None:
    """Whether TensorRT named a node among some of its layers; None if it did not tell.

    Args:
        node: a node of the graph.
        names: layers, in TensorRT's words.
        count: how many it counted; None if it said nothing.
        nodes: all layers of the graph that it may have meant.
    """
    meant = [set(nodes_of(name)) for name in names]
    if any(node in parts for parts in meant):
        return True
    # That a node is not named says something only if every name is there, and understood.
    complete = len(meant) == count and all(parts & set(nodes) for parts in meant)
    return False if complete else None


def _told(match: re.Match[str]) -> tuple[int, tuple[str, ...]]:
    """The count, by the names where TensorRT gives none, and the names."""
    names = _listed((match["names"] or "").removeprefix(":"))
    return len(names) if match["count"] is None else int(match["count"]), names


def _listed(text: str) -> tuple[str, ...]:
    """Names between commas, but for those inside of brackets, as in 'PWN(a, b)'."""
    names, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth <= 0:
            names.append(text[start:place])
            start = place + 1
    return tuple(name.strip() for name in (*names, text[start:]) if name.strip())


def _plain(part: str) -> tuple[str, ...]:
    """Names of nodes that a part may stand for, as it is and without what Myelin added."""
    plain = _MADE.sub("", part)
    return (part,) if plain == part else (plain, _NUMBERED.sub("", plain))
