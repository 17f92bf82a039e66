"""Loading, checking and sandboxed rendering of templates.

A template file defines blocks: `system` and `user` for a chat prompt, `text` for a plain text, `context` and
`question` for one of many questions. Templates are data:
`prompts.sandbox` defines their language, their inputs are plain data, and an undefined variable is an error. The inputs
that they print have no control tokens (`prompts.control_tokens`).
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from jinja2 import meta

from prompts.control_tokens import defuse_tokens
from prompts.sandbox import PromptEnvironment, is_plain, join_output
from schemas.base import UsageError

INPUTS: dict[str, frozenset[str]] = {
    "reply": frozenset({"post", "traits"}),
    "reply_assistant": frozenset({"post", "traits"}),
    "portrait_text": frozenset({"traits"}),
    "portrait_model": frozenset({"traits"}),
    "portrait_paper": frozenset({"post", "chosen", "rejected", "dimensions", "tags"}),
    "annotate": frozenset({"post", "response", "dimension", "options"}),
    "annotate_assistant": frozenset({"post", "response", "dimension", "options"}),
    "annotate_json": frozenset({"post", "response", "dimensions"}),
    "quality": frozenset({"options"}),
    "quality_assistant": frozenset({"options"}),
    "prefer": frozenset({"portrait", "post", "first", "second"}),
}
"""The templates of the pipeline and the inputs of each. With `style: assistant`, `NAME_assistant` replaces `NAME`.

`post` has `title`, `text` and `topics`; in `portrait_paper` it is one text, as replies and responses are. `traits` is a
list of `slug`, `name`, `group`, `label`, `description`, `hint`, `service`; a reply without traits is a plain answer. A
dimension has the fields of a space file; `tags` are the topical dimensions where `dimensions` are the others. `options`
are three of `letter`, `label` and `description`; label and description of 'cannot tell' are empty. In `quality` the
labels are `good`, `fair` and `poor`. `first` and `second` are replies in the order in which `prefer` shows them.
"""

BLOCKS: dict[str, tuple[str, ...]] = dict.fromkeys(INPUTS, ("system", "user")) | {
    "portrait_text": ("text",),
    "annotate": ("context", "question"),
    "annotate_assistant": ("context", "question"),
    "quality": ("question",),
    "quality_assistant": ("question",),
    "prefer": ("context", "question"),
}
"""The blocks of each template."""

HIDDEN_INPUTS: dict[str, frozenset[str]] = {
    "context": frozenset({"dimension", "options", "first", "second"}),
    "question": frozenset({"post", "response", "portrait"}),
}
"""Inputs that a block of questions does not get, since all questions share one context."""

_NOT_SENT = frozenset({"portrait_text"})
"""Templates of texts that are not sent to a model."""

_MAX_BYTES = 1 << 18
"""Bytes of the largest template file."""

_RENDER_ERRORS = (
    *(jinja2.TemplateError, ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError),
)
"""Errors of a template that uses data which do not exist."""


@dataclass(frozen=True)
class Template:
    """One loaded template."""

    name: str
    origin: str
    source: str
    compiled: jinja2.Template

    @property
    def fingerprint(self) -> str:
        """Return a hash of the file's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    def render(self, **inputs: object) -> dict[str, str]:
        """Return each block's text, stripped. Raise `UsageError` that names the template and the missing data."""
        return self._render(BLOCKS[self.name], inputs)

    def render_block(self, block: str, **inputs: object) -> str:
        """Return one block's text, as `render` does."""
        return self._render((block,), inputs)[block]

    def _render(self, blocks: Sequence[str], inputs: dict[str, object]) -> dict[str, str]:
        if not is_plain(inputs):
            raise TypeError(f"template {self.origin}: an input is not made of texts, numbers, lists and maps")
        context = self.compiled.new_context(inputs)
        try:
            return {block: join_output(self.compiled.blocks[block](context), context).strip() for block in blocks}
        except _RENDER_ERRORS as error:
            raise UsageError(f"template {self.origin}: {error}") from None


def load_templates(folder: Path | None = None) -> dict[str, Template]:
    """Return all templates. A file `NAME.j2` in `folder` replaces the packaged template of that name.

    Raises:
        UsageError: A name is unknown, the syntax is wrong, a block is missing, or a variable is not an input. All of
            these are found before the first row.
    """
    packaged = importlib.resources.files("prompts") / "templates"
    sources = {name: (f"{name}.j2", (packaged / f"{name}.j2").read_text(encoding="utf-8")) for name in INPUTS}
    if folder is not None:
        if not folder.is_dir():
            raise UsageError(f"templates: {folder} is not a folder")
        for path in sorted(folder.glob("*.j2")):
            if path.stem not in INPUTS:
                raise UsageError(f"template {path}: unknown name; the templates are {', '.join(sorted(INPUTS))}")
            try:
                if path.stat().st_size > _MAX_BYTES:
                    raise UsageError(f"template {path}: larger than {_MAX_BYTES} bytes")
                sources[path.stem] = (str(path), path.read_text(encoding="utf-8"))
            except (UnicodeDecodeError, OSError) as error:
                raise UsageError(f"template {path}: not readable as UTF-8 text: {error}") from None
    # A template's own text may hold control tokens: one for `/v1/completions` writes the turns of its chat itself.
    sent, kept = PromptEnvironment(defuse_tokens), PromptEnvironment()
    return {
        name: _load(kept if name in _NOT_SENT else sent, name, origin, source)
        for name, (origin, source) in sources.items()
    }


def _load(environment: PromptEnvironment, name: str, origin: str, source: str) -> Template:
    try:
        tree = environment.parse(source)
        needed = meta.find_undeclared_variables(tree)
        compiled = environment.from_string(environment.restrict(tree))
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"template {origin}, line {error.lineno}: {error.message}") from None
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        # Limits of Python: nested blocks or brackets, digits of a number.
        raise UsageError(
            f"template {origin}: too deeply nested, or a number too long: {str(error) or type(error).__name__}"
        ) from None
    unknown = sorted(needed - INPUTS[name])
    if unknown:
        raise UsageError(
            f"template {origin}: uses '{unknown[0]}', which is not an input; "
            f"its inputs are {', '.join(sorted(INPUTS[name]))}"
        )
    missing = [block for block in BLOCKS[name] if block not in compiled.blocks]
    if missing:
        raise UsageError(f"template {origin}: has no block '{missing[0]}'")
    return Template(name, origin, source, compiled)
