"""Signatures of pybind11, which stand in the documentation of its functions."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_NAMESPACES = ("nvinfer1", "nvonnxparser")
_RENAMED = {"IParserError": "ParserError"}
"""Python's names of classes that signatures call as C++ does."""


@dataclass(frozen=True)
class Signature:
    """One overload of a method."""

    names: tuple[str, ...]
    """Parameters in their order, with `self`."""
    types: tuple[str, ...]
    """Their annotations."""
    optional: int
    """How many at the end have a default."""
    returns: str
    """Annotation of what it returns."""

    def accepts(self, given: int, keywords: set[str | None]) -> bool:
        """Whether every argument has a place, and every place without a default an argument."""
        if given > len(self.names) or not keywords <= set(self.names[given:]):
            return False
        return set(self.names[given : len(self.names) - self.optional]) <= keywords


def signatures(name: str, documentation: str | None) -> list[Signature]:
    """The overloads that pybind11 wrote into a function's documentation."""
    pattern = rf"^\s*(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.+)$"
    return [
        _signature(match[1], match[2].strip())
        for match in re.finditer(pattern, documentation or "", re.MULTILINE)
        if match[1] != "*args, **kwargs"
    ]


def _signature(parameters: str, returns: str) -> Signature:
    parts = [part for part in _split(parameters) if part]
    names = tuple(part.split(":")[0].split("=")[0].strip() for part in parts)
    types = tuple(part.partition(":")[2].partition("=")[0].strip() for part in parts)
    return Signature(names, types, sum("=" in part for part in parts), returns)


def _split(parameters: str) -> list[str]:
    """Parameters, cut at the commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter in "[(<{") - (letter in "])>}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


@dataclass(frozen=True)
class Value:
    """What is known of an expression."""

    kind: str
    """'module', 'class', 'instance' or 'method'."""
    found: Any
    """The module, the class, the class of the instance, or the function."""
    bound: bool = True
    """For a method: whether `self` is given already."""

    def fits(self, wanted: type) -> bool:
        """Whether it may stand where an object of a class is wanted; True where that is unknown."""
        return self.kind != "instance" or issubclass(self.found, wanted)


class Kinds:
    """Finds the vendor's classes by the names that annotations and signatures give them."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def annotated(self, annotation: ast.expr | None) -> Value | None:
        """The one class of the vendor that an annotation speaks of, alone or with None."""
        if isinstance(annotation, ast.BinOp):
            return self.annotated(annotation.left) or self.annotated(annotation.right)
        if isinstance(annotation, ast.Attribute):
            return self.instance(annotation.attr)
        return self.instance(annotation.id) if isinstance(annotation, ast.Name) else None

    def instance(self, name: str) -> Value | None:
        """An object of a class that a signature or an annotation names."""
        parts = [part for part in re.split(r"\.|::", name.removesuffix(" | None")) if part]
        parts = [part for part in parts if part not in _NAMESPACES and not part.islower()]
        found: Any = self._module
        for part in parts:
            found = getattr(found, _RENAMED.get(part, part), None)
        return Value("instance", found) if parts and isinstance(found, type) else None

    def property(self, member: property) -> Value | None:
        found = re.search(r"-> (.+)$", (member.fget and member.fget.__doc__) or "", re.MULTILINE)
        return self.instance(found[1].strip()) if found else None

    def suit(
        self, one: Signature, given: list[Value | None], keywords: dict[str | None, Value | None]
    ) -> bool:
        """Whether arguments whose class is known are of the classes that an overload names."""
        by_name = dict(zip(one.names, one.types, strict=True))
        pairs = [*zip(one.types, given, strict=False)]
        pairs += [(by_name[str(name)], value) for name, value in keywords.items()]
        for annotation, value in pairs:
            wanted = self.instance(annotation)
            if wanted and value and not value.fits(wanted.found):
                return False
        return True
