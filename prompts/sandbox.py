"""The language of templates: the part of Jinja that reads plain data and ends.

A template prints, branches, loops and filters. Its data are texts, numbers, lists and maps. The keys of maps are the
only attributes, so no code is in reach. There are no calls (apparent methods are filters), no macros, no namespaces
and no other files. Work is counted, not timed: loops by the nodes that they run, filters and operators by the
characters and items that they handle.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_WORK = 10_000_000
"""Most nodes, characters and items of one block, and most characters that it prints: about a second."""
_WORK_PER_INPUT = 100
"""Further work for each character of the inputs, so that a long post does not fail a template."""
_LARGEST = 10**15
"""Largest number in arithmetic."""

_SCALARS = frozenset({str, int, float, bool, type(None)})
_SIZED = (str, list, tuple, dict)
_PLAIN = _SCALARS | {list, tuple, dict}
_TEXT = frozenset({str})
_PASSED_BY = {"eval_context": "eval_ctx", "environment": "environment"}
"""Attributes of a context that some of Jinja's filters take."""
_LOOP_ATTRIBUTES = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length"})

_ITEM_FILTERS = frozenset(
    {
        *("abs", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "keys", "last"),
        *("length", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort"),
        *("unique", "values"),
    }
)
"""Filters that read a value's items but not their content."""
_GROWING_FILTERS = frozenset({"indent", "join", "replace"})
"""Filters whose result may be as long as the value times the longest argument."""
_FILTERS = (
    _ITEM_FILTERS
    | _GROWING_FILTERS
    | {"capitalize", "lower", "string", "title", "trim", "truncate", "upper", "wordcount"}
)
_METHODS = (
    *("split", "splitlines", "startswith", "endswith", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"),
    *("capitalize", "lower", "replace", "title", "upper", "items", "keys", "values"),
)
"""Filters that may be written as methods, some of them beyond Jinja's."""
_LOOP_FILTER, _OUTPUT_FILTER = " counted", " printed"
"""Filters that no template can name. They count the work of loops and of printing."""

_ALLOWED_NODES = (
    *(nodes.Template, nodes.Block, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign),
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Getattr, nodes.Getitem),
    *(nodes.Slice, nodes.Filter, nodes.Test, nodes.Keyword, nodes.CondExpr, nodes.Compare, nodes.Operand),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
)
_NODE_NAMES: dict[type[nodes.Node], str] = {
    nodes.Call: f"a call (of methods there are {', '.join(_METHODS)})",
    nodes.Pow: "**",
    nodes.NSRef: "a namespace",
    nodes.AssignBlock: "a block of set",
}


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Environment that compiles and runs templates of this language."""

    # Also prevents constant folding at load, which would compute `'a' * 10**11`.
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, finalize: Callable[[Any], Any] | None = None) -> None:
        """Apply `finalize` to everything printed except the template's own text."""
        super().__init__(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False, finalize=finalize
        )
        self.context_class = _Context
        self.globals.clear()
        own = {name: getattr(dict if hasattr(dict, name) else str, name) for name in _METHODS}
        known = own | {name: FILTERS[name] for name in _FILTERS & FILTERS.keys()}
        self.filters = {name: _metered(name, function) for name, function in (known | {"tojson": _json}).items()}
        self.filters |= {_LOOP_FILTER: _metered_loop, _OUTPUT_FILTER: _metered_output}

    def restrict(self, tree: nodes.Template) -> nodes.Template:
        """Return the tree with counting filters. Raise `TemplateSyntaxError` for a node outside the language."""
        checked: nodes.Template = _Restrictor(self).visit(tree)
        return checked

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a map's value or a loop's counter; nothing else has attributes."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        if isinstance(obj, LoopContext) and attribute in _LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        if isinstance(obj, Undefined):
            str(obj)  # Raises an error that names the undefined variable.
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an item of a list, a map or a text."""
        if isinstance(obj, (list, tuple, str)) and isinstance(argument, int):
            try:
                return obj[argument]
            except IndexError:
                return self.undefined(obj=obj, name=argument)  # type: ignore[arg-type] # an index names the item
        return self.getattr(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute with numbers, or join two texts or two lists."""
        if type(left) in (int, float, bool) and type(right) in (int, float, bool):
            if max(abs(left), abs(right)) > _LARGEST:
                raise SecurityError(f"numbers above {_LARGEST} are not allowed in arithmetic")
        elif operator == "+" and type(left) is type(right) and type(left) in (str, list):
            context.spend(_size(left) + _size(right))
        else:
            raise TypeError(f"'{operator}' of {type(left).__name__} and {type(right).__name__}")
        return super().call_binop(context, operator, left, right)


class _Context(Context):
    """The variables of a block and its remaining work."""

    left = MAX_WORK
    extended = False

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0 and not self.extended:
            self.extended = True
            self.left += _WORK_PER_INPUT * sum(map(_size, self.parent.values()))
        if self.left < 0:
            raise SecurityError(
                f"does more work than a prompt may ({MAX_WORK} loop steps and characters in filters and operators)"
            )


def join_output(pieces: Iterable[str], context: Any) -> str:
    """Return the text of a block. Raise `SecurityError` where it is too long for a prompt."""
    printed, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_WORK:
            context.spend(len(piece))
        printed.append(piece)
    return "".join(printed)


def is_plain(value: Any) -> bool:
    """Return whether a value is made of texts, numbers, lists and maps with text keys, at any depth."""
    kind = type(value)
    if kind is dict:
        return _TEXT.issuperset(map(type, value)) and _are_plain(value.values())
    return _are_plain(value) if kind is list else kind in _SCALARS


def _are_plain(values: Collection[Any]) -> bool:
    return _SCALARS.issuperset(map(type, values)) or all(map(is_plain, values))


class _Restrictor(NodeTransformer):
    """Visitor that refuses nodes outside the language, turns methods into filters, and adds counting filters."""

    def __init__(self, environment: PromptEnvironment) -> None:
        self._environment = environment

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        line = node.lineno
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS:
            filtered = (node.node.node, node.node.attr, node.args, node.kwargs, node.dyn_args, node.dyn_kwargs)
            return self.generic_visit(nodes.Filter(*filtered, lineno=line))
        self._check(node)
        # Inner nodes first, so that the filters added below are not visited.
        super().generic_visit(node, *args, **kwargs)
        match node:
            case nodes.For():
                cost = nodes.Const(sum(1 for _ in node.find_all(nodes.Node)), lineno=line)
                node.iter = nodes.Filter(node.iter, _LOOP_FILTER, [cost], [], None, None, lineno=line)
            case nodes.Concat():
                return nodes.Filter(nodes.List(node.nodes, lineno=line), "join", [], [], None, None, lineno=line)
            case nodes.Output():
                # Attributes are parts of the inputs, whose size is bounded; other values may have grown.
                own = (nodes.TemplateData, nodes.Const, nodes.Getattr)
                node.nodes = [
                    part
                    if isinstance(part, own)
                    else nodes.Filter(part, _OUTPUT_FILTER, [], [], None, None, lineno=line)
                    for part in node.nodes
                ]
        return node

    def _check(self, node: nodes.Node) -> None:
        match node:
            case nodes.Filter() if node.name not in self._environment.filters:
                known = sorted(name for name in self._environment.filters if name not in (_LOOP_FILTER, _OUTPUT_FILTER))
                fault = f"no filter named '{node.name}'; there are {', '.join(known)}"
            case nodes.For() if node.recursive:
                fault = "a recursive loop is no part of the template language"
            case nodes.List() | nodes.Tuple() | nodes.Dict() if any(
                name.ctx == "load" for name in node.find_all(nodes.Name)
            ):
                # Nested lists of variables could double the printed text with each line.
                fault = "a list or map may hold constants only"
            case nodes.Name() if node.name in ("self", "super"):
                fault = f"'{node.name}' is no part of the template language"
            case _ if not isinstance(node, _ALLOWED_NODES):
                fault = (
                    f"{_NODE_NAMES.get(type(node), type(node).__name__.lower())} is no part of the template language"
                )
            case _:
                return
        raise jinja2.TemplateSyntaxError(fault, node.lineno)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter whose work is counted before it runs. Arguments are texts and numbers; the result is plain."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @jinja2.pass_context
    def paid(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if not _SCALARS.issuperset(map(type, given)):
            raise TypeError(
                f"arguments of filter '{name}' must be texts or numbers, not a list, map or undefined value"
            )
        if name in _ITEM_FILTERS:
            context.spend(len(value) if isinstance(value, _SIZED) else 1)
        else:
            longest = max((len(a) if type(a) is str else abs(a or 1) for a in given), default=1)
            context.spend(_size(value) * (max(1, longest) if name in _GROWING_FILTERS else 1))
        if passed == "context":
            result = function(context, value, *args, **kwargs)
        elif passed:
            result = function(getattr(context, _PASSED_BY[passed]), value, *args, **kwargs)
        else:
            result = function(value, *args, **kwargs)
        if name == "groupby":
            return [tuple(group) for group in result]
        return result if type(result) in _PLAIN else list(result)

    return paid


@jinja2.pass_context
def _metered_loop(context: Any, value: Any, cost: int) -> Any:
    """Return the value of a loop, after counting the work of all its iterations."""
    if isinstance(value, _SIZED):
        context.spend(cost * len(value))
    elif not isinstance(value, Undefined):
        raise TypeError(f"a loop over {type(value).__name__}")
    return value


@jinja2.pass_context
def _metered_output(context: Any, value: Any) -> Any:
    """Return a value to print, after counting its size."""
    if type(value) is not str:
        context.spend(_size(value))
    return value


def _json(value: Any) -> str:
    """Return a value as JSON, without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=False)


def _size(value: Any) -> int:
    """Return the characters and items of a value as printed, or a number above the limit.

    Raises `TypeError` for a value that is not plain.
    """
    if isinstance(value, (str, Undefined)):
        # str() raises for an undefined value.
        return 1 + len(str(value))
    if type(value) in _SCALARS:
        return 1
    if not isinstance(value, (dict, list, tuple)):
        raise TypeError(f"no template may handle a {type(value).__name__}")
    size = 1
    for part in itertools.chain(*value.items()) if isinstance(value, dict) else value:
        size += _size(part)
        if size > MAX_WORK:
            break
    return size
