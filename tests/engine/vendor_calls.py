"""Finds every use of the vendor's module in our source, and checks it against that module.

The source is read, not run: most of it needs a GPU. What is known of a value comes from
- the name `trt`, or an attribute `_trt`, which always is the vendor's module;
- annotations that name one of its classes, also as `X | None`;
- what the module's own signatures say that a call or a property returns;
- the names in `USUAL`, where the annotation is `Any`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from tests.engine.vendor_signatures import Kinds, Value, signatures

USUAL = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
"""Classes of parameters that are annotated with Any, because one module alone has what is used."""


@dataclass(frozen=True)
class Use:
    """A member of a class, or of the module itself, that our source uses."""

    owner: str
    """Class, such as 'ILogger.Severity'; '' for the module."""
    member: str
    """Method, property, enumerator or class."""

    def __str__(self) -> str:
        return f"{self.owner}.{self.member}" if self.owner else self.member


@dataclass
class Findings:
    """What a file uses, and what is wrong with it."""

    uses: set[Use] = field(default_factory=set)
    """Members that were found in the module."""
    problems: list[str] = field(default_factory=list)
    """Uses that the module has not, as 'line 12: what'."""
    loose: set[str] = field(default_factory=set)
    """Attributes of objects of which nothing is known."""


def check_source(source: str, module: ModuleType) -> Findings:
    """Check a file of ours against the vendor's module."""
    tree = ast.parse(source)
    checker = _Checker(module)
    checker.declare(tree)
    checker.body(tree.body, {})
    checker.findings.problems.sort(key=lambda text: int(re.findall(r"\d+", text)[0]))
    return checker.findings


Scope = dict[str, Value]


class _Checker:
    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.findings = Findings()
        self._kinds = Kinds(module)
        self._attributes: Scope = {}
        self._returns: Scope = {}

    def declare(self, tree: ast.Module) -> None:
        """Learn what our own functions return, before the rest."""
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (value := self._kinds.annotated(node.returns)):
                self._returns[node.name] = value

    def _parameters(self, node: ast.FunctionDef | ast.Lambda, scope: Scope) -> Scope:
        inner = dict(scope)
        arguments = node.args
        for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            inner.pop(item.arg, None)
            value = self._kinds.annotated(item.annotation)
            if isinstance(item.annotation, ast.Name) and item.annotation.id == "Any":
                value = self._kinds.instance(USUAL.get(item.arg, ""))
            if value is not None:
                inner[item.arg] = value
        return inner

    # Statements.

    def body(self, statements: list[ast.stmt], scope: Scope) -> None:
        for statement in statements:
            self._statement(statement, scope)

    def _statement(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.FunctionDef():
                self.body(node.body, self._parameters(node, scope))
            case ast.ClassDef():
                self._class(node, scope)
            case ast.AnnAssign():
                value = None if node.value is None else self._value(node.value, scope)
                self._bind(node.target, self._kinds.annotated(node.annotation) or value, scope)
            case ast.Assign():
                value = self._value(node.value, scope)
                for target in node.targets:
                    self._assign(target, node.value, value, scope)
            case _:
                for child in _expressions(node):
                    self._value(child, scope)
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.stmt):
                        self._statement(child, scope)
                    elif isinstance(child, ast.ExceptHandler | ast.match_case):
                        self.body(child.body, scope)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        """A class of ours; what it overrides of the vendor's must be there, and as long."""
        for base in node.bases:
            value = self._value(base, scope)
            if value is None or value.kind != "class":
                continue
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    member = self._member(value.found, item.name, item)
                    given = len(item.args.args)
                    known = signatures(item.name, getattr(member, "__doc__", None))
                    if known and given not in {len(one.names) for one in known}:
                        self._problem(item, f"{item.name} takes {given} parameters")
        self.body(node.body, dict(scope))

    def _assign(
        self, target: ast.expr, source: ast.expr, value: Value | None, scope: Scope
    ) -> None:
        if isinstance(target, ast.Tuple) and isinstance(source, ast.Tuple):
            for item, part in zip(target.elts, source.elts, strict=False):
                self._bind(item, self._value(part, scope), scope)
            return
        if isinstance(target, ast.Attribute):
            owner = self._value(target.value, scope)
            if owner is not None and owner.kind == "instance":
                self._set(target, owner.found, value)
                return
        self._bind(target, value, scope)

    def _set(self, target: ast.Attribute, owner: type, value: Value | None) -> None:
        """A property is given a value: it must be there, writable and of that type."""
        member = self._member(owner, target.attr, target)
        if not isinstance(member, property):
            return
        if member.fset is None:
            self._problem(target, f"{owner.__name__}.{target.attr} cannot be written")
        wanted = self._kinds.property(member)
        if wanted and value and not value.fits(wanted.found):
            kind = value.found.__name__
            self._problem(target, f"{owner.__name__}.{target.attr} is given a {kind}")

    def _bind(self, target: ast.expr, value: Value | None, scope: Scope) -> None:
        if isinstance(target, ast.Name) and (value is not None or target.id != "trt"):
            scope.pop(target.id, None)
            if value is not None:
                scope[target.id] = value
        elif isinstance(target, ast.Attribute) and value is not None:
            self._attributes.setdefault(target.attr, value)

    # Expressions.

    def _value(self, node: ast.expr, scope: Scope) -> Value | None:
        value: Value | None = None
        match node:
            case ast.Name(id="trt"):
                value = Value("module", self.module)
            case ast.Name():
                value = scope.get(node.id)
            case ast.Attribute():
                value = self._attribute(node, scope)
            case ast.Call():
                value = self._call(node, scope)
            case ast.IfExp():
                self._value(node.test, scope)
                first, second = self._value(node.body, scope), self._value(node.orelse, scope)
                value = first or second
            case ast.NamedExpr():
                value = self._value(node.value, scope)
                self._bind(node.target, value, scope)
            case ast.Lambda():
                self._value(node.body, self._parameters(node, scope))
            case _:
                # Comprehensions too: what their variables hold is not known, the rest is checked.
                for child in _expressions(node):
                    self._value(child, scope)
        return value

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Value | None:
        if node.attr == "_trt":
            return Value("module", self.module)
        owner = self._value(node.value, scope)
        if owner is None:
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self._attributes.get(node.attr)
            self.findings.loose.add(node.attr)
            return None
        member = None if owner.kind == "method" else self._member(owner.found, node.attr, node)
        value: Value | None = None
        if isinstance(member, type):
            value = Value("class", member)
        elif isinstance(member, property):
            value = self._kinds.property(member)
        elif callable(member):
            value = Value("method", member, bound=owner.kind != "class")
        elif member is not None:
            value = Value("instance", type(member))
        return value

    def _member(self, owner: Any, name: str, node: ast.AST) -> Any:
        title = "" if owner is self.module else owner.__qualname__
        if not hasattr(owner, name):
            self._problem(node, f"there is no {Use(title, name)}")
            return None
        if not name.startswith("__"):
            self.findings.uses.add(Use(title, name))
        return getattr(owner, name)

    def _call(self, node: ast.Call, scope: Scope) -> Value | None:
        arguments = [self._value(item, scope) for item in node.args]
        keywords = {item.arg: self._value(item.value, scope) for item in node.keywords}
        if isinstance(node.func, ast.Name):
            if node.func.id == "getattr" and arguments[0] is not None:
                return self._getattr(node, arguments[0])
            if node.func.id not in scope:
                return self._returns.get(node.func.id)
        called = self._value(node.func, scope)
        if called is None or called.kind not in ("class", "method"):
            return None
        function = called.found.__init__ if called.kind == "class" else called.found
        known = signatures(function.__name__, function.__doc__)
        given = list(arguments)
        if called.kind == "class" or called.bound:
            given.insert(0, None)
        if known and not any(isinstance(item, ast.Starred) for item in node.args):
            fits = [one for one in known if one.accepts(len(given), set(keywords))]
            typed = [one for one in fits if self._kinds.suit(one, given, keywords)]
            if not typed:
                why = "does not take these arguments" if not fits else "takes other types"
                self._problem(node, f"{ast.unparse(node.func)} {why}: {ast.unparse(node)}")
            known = typed or known
        if called.kind == "class":
            return Value("instance", called.found)
        return self._kinds.instance(known[0].returns) if known else None

    def _getattr(self, node: ast.Call, owner: Value) -> Value | None:
        """`getattr` with a literal name must find it, unless there is a default."""
        name = node.args[1]
        if isinstance(name, ast.Constant) and (
            len(node.args) == 2 or hasattr(owner.found, name.value)
        ):
            member = self._member(owner.found, str(name.value), node)
            return None if member is None else Value("instance", type(member))
        return None

    def _problem(self, node: ast.AST, what: str) -> None:
        self.findings.problems.append(f"line {getattr(node, 'lineno', 0)}: {what}")


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions right below a node, also those in its comprehensions, items and keywords."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif not isinstance(child, ast.stmt):
            yield from _expressions(child)
