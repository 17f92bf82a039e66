"""Limits of templates: the objects in reach, and the amount of work."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2.runtime import LoopContext, Undefined

from preference_space.space import load_space
from prompts.renderer import _RENDER_ERRORS, INPUTS, Template, load_templates
from prompts.sandbox import MAX_WORK, PromptEnvironment, is_plain
from schemas.base import UsageError
from schemas.records import SeedPost
from tests.prompts.templates import POST, inputs_of, load, refusal, trait, write

PLAIN = (str, int, float, bool, type(None), list, dict, tuple)


def written(folder: Path, user: str) -> Template:
    return load(write(folder, user))


def rendered(folder: Path, user: str, **post: Any) -> str:
    return written(folder, user).render(post=POST | post, traits=[trait("calm"), trait("kind")])["user"]


def refused(folder: Path, user: str, **post: Any) -> str:
    """Return the message that refuses a template at load or at rendering."""
    with pytest.raises(UsageError) as caught:
        rendered(folder, user, **post)
    message = str(caught.value)
    assert message.startswith(f"template {folder / 'reply.j2'}")
    assert "\n" not in message
    return message


# What is in reach


@pytest.mark.parametrize(
    "attack",
    [
        """{{ post.parse_raw("cposix\\nsystem\\n(S'touch HERE'\\ntR.", content_type="application/pickle", """
        """allow_pickle=true) }}""",
        '{{ post.parse_file("HERE").text }}',
        "{{ post.__class__.__mro__ }}",
        "{{ post['__class__'] }}",
        "{{ post | attr('__class__') }}",
        "{{ post | map(attribute='__class__') | list }}",
        "{{ traits | sort(attribute='__class__') }}",
        "{{ traits | groupby('hint.__class__') }}",
        "{{ traits | map('attr', '__class__') | list }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ joiner }}",
        "{{ range.__class__ }}",
        "{{ self.user() }}",
        "{{ self._TemplateReference__context }}",
        "{{ super() }}",
        "{{ lipsum() }}",
        "{{ dict(a=1) }}",
        "{% for x in traits %}{{ loop.cycle }}{{ loop.__init__ }}{% endfor %}",
        "{% for x in traits %}{{ loop._iterable }}{% endfor %}",
        "{% for x in traits %}{{ loop.changed(x) }}{% endfor %}",
        "{% for x in traits recursive %}{{ loop(traits) }}{% endfor %}",
        "{% macro m() %}x{% endmacro %}{{ m._environment }}",
        "{% call post() %}{% endcall %}",
        "{{ '{0.__class__}'.format(post) }}",
        "{{ '{a.__class__}'.format_map({'a': post}) }}",
        "{{ '%s' % post }}",
        "{{ '%(text)s' | format(post) }}",
        "{{ traits.append.__self__ }}",
        "{{ traits.append(1) }}",
        "{{ traits.clear() }}",
        "{{ traits[0].update({'hint': 'x'}) }}",
        "{{ post.title.encode() }}",
        "{% include 'secret.txt' %}",
        "{% import 'secret.txt' as x %}",
        "{% extends 'secret.txt' %}",
        "{% set ns = namespace(x=1) %}{% set ns.x = 2 %}",
    ],
)
def test_what_is_not_in_the_language_is_refused(tmp_path: Path, attack: str) -> None:
    here = tmp_path / "here"
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    traits = [trait("calm"), trait("kind")]
    write(tmp_path, attack.replace("HERE", str(here)))

    with pytest.raises(UsageError):
        load(tmp_path).render(post=POST, traits=traits)

    assert not here.exists()
    assert traits == [trait("calm"), trait("kind")]


def reachable(environment: PromptEnvironment, value: Any, seen: set[int], depth: int = 0) -> Iterator[Any]:
    """Return a value and all values in its attributes and items."""
    yield value
    if id(value) in seen or depth > 6 or isinstance(value, Undefined):
        return
    seen.add(id(value))
    items: list[Any] = []
    if isinstance(value, dict):
        items = [*value]
    elif isinstance(value, (list, tuple, str)):
        items = [*range(min(3, len(value)))]
    for name in (*dir(value), *(key for key in items if isinstance(key, str))):
        yield from reachable(environment, environment.getattr(value, name), seen, depth + 1)
        yield from reachable(environment, environment.getitem(value, name), seen, depth + 1)
    for key in items:
        yield from reachable(environment, environment.getitem(value, key), seen, depth + 1)


def test_everything_in_reach_is_plain() -> None:
    environment = PromptEnvironment()
    loop = LoopContext([1, 2], Undefined)
    next(loop)
    roots = [loop, *(value for name in INPUTS for value in inputs_of(name).values())]
    seen: set[int] = set()

    found = [value for root in roots for value in reachable(environment, root, seen)]

    assert len(found) > 1000
    strangers = {type(value) for value in found} - {*PLAIN, environment.undefined, LoopContext}
    assert not strangers
    assert environment.globals == {}
    assert not environment.extensions


VALUES: tuple[Any, ...] = ("a text", "", 3, 1.5, True, None, ["b", "a"], [], {"k": "v"}, [{"k": "v"}, {"k": "w"}])
ARGUMENTS: tuple[tuple[Any, ...], ...] = ((), ("k",), ("upper",), (1,), ("a", "b"), ("equalto", "a"), ("k", "defined"))


def test_every_filter_gives_plain_data_or_fails_in_one_line() -> None:
    environment = PromptEnvironment()
    template = environment.from_string("")
    results = []

    for (name, function), value, given in itertools.product(environment.filters.items(), VALUES, ARGUMENTS):
        context = template.new_context({"value": value})
        with contextlib.suppress(*_RENDER_ERRORS):
            results.append((name, function(context, value, *given)))

    strangers = {
        (name, type(inner))
        for name, result in results
        for inner in reachable(environment, result, set())
        if type(inner) not in (*PLAIN, environment.undefined)
    }
    assert not strangers
    assert {name for name, _ in results} == environment.filters.keys()


def test_every_test_says_yes_or_no() -> None:
    environment = PromptEnvironment()
    context = environment.from_string("").new_context({})

    for name, value, given in itertools.product(environment.tests, VALUES, ARGUMENTS):
        with contextlib.suppress(*_RENDER_ERRORS):
            assert type(environment.call_test(name, value, given, context=context)) is bool


@dataclasses.dataclass
class Thing:
    text: str = "x"


@pytest.mark.parametrize(
    "stranger",
    [SeedPost(id="s", text="x"), Thing(), np.float32(1), np.array([1]), b"x", {1}, ("x",), object(), {1: "x"}, dict],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_renderer_takes_plain_data_only(stranger: object, depth: int) -> None:
    for _ in range(depth):
        stranger = [{"inner": stranger}]

    assert not is_plain(stranger)
    with pytest.raises(TypeError, match="not made of texts, numbers, lists and maps"):
        load_templates()["portrait_text"].render(traits=stranger)


def test_what_the_pipeline_gives_is_plain() -> None:
    space = load_space("alignx")
    direction = np.where(np.arange(len(space)) % 3, 1, -1).astype(np.int8)

    assert is_plain({"post": SeedPost(id="s", text="x", topics=("a",)).plain})
    assert is_plain(space.plain)
    assert is_plain(space.traits(direction))


# What the language has


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("{{ post.title | upper }}", "WHICH PET?"),
        ("{{ post.title.upper() }}", "WHICH PET?"),
        ("{{ post['title'].strip().lower() }}", "which pet?"),
        ("{{ post.text.split(' ')[1] }}", "cat"),
        ("{{ post.text | split | last }}", "dog."),
        ("{{ post.title.startswith('Which') }}", "True"),
        ("{{ post.title.replace('pet', 'cat') }}", "Which cat?"),
        ("{{ post.title[:5] }}{{ post.title[-1] }}", "Which?"),
        ("{% for key, value in post.items() %}{{ key }}{% endfor %}", "titletexttopics"),
        ("{{ post.topics | join(', ') }} {{ post.topics | tojson }}", 'pets ["pets"]'),
        ("{% for t in traits %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "1/2 2/2"),
        ("{% for t in traits if t.slug == 'kind slug' %}{{ t.slug }}{% else %}none{% endfor %}", "kind slug"),
        ("{% for g, ts in traits | groupby('group') %}{{ g }} {{ ts | length }}{% endfor %}", "calm group 1kind group 1"),  # noqa: E501
        ("{{ traits | selectattr('slug', 'eq', 'kind slug') | map(attribute='hint') | join }}", "kind hint"),
        ("{{ traits | map(attribute='slug') | map('upper') | join('+') }}", "CALM SLUG+KIND SLUG"),
        ("{% set n = traits | length %}{{ n * 2 + 1 - 7 // 2 }} {{ 7 % 2 }} {{ n / 2 }}", "2 1 1.0"),
        ("{{ post.title ~ ' ' ~ 1 ~ '!' }}", "Which pet? 1!"),
        ("{{ 'a' + 'b' }} {{ post.topics + post.topics }}", "ab ['pets', 'pets']"),
        ("{% if 'cat' in post.text and post.title is not none %}yes{% else %}no{% endif %}", "yes"),
        ("{{ {'pets': 'animals'}[post.topics[0]] }} {{ post.topics[0] in ['pets', 'cars'] }}", "animals True"),
        ("{{ post.nothing | default('-') }} {{ 'x' if post.nothing is defined else 'y' }}", "- y"),
        ("{{ post.text | indent(2, true) }}", "A cat or a dog."),
        ("{{ post.text | truncate(8) }}", "A..."),
        ("{% raw %}{{ post }}{% endraw %}{# a note #}", "{{ post }}"),
    ],
)  # fmt: skip
def test_the_language(tmp_path: Path, user: str, text: str) -> None:
    assert rendered(tmp_path, user) == text


def test_a_call_is_refused_at_load_with_what_there_is_instead(tmp_path: Path) -> None:
    write(tmp_path, "{{ post.title.swapcase() }}")

    message = refusal(tmp_path)

    assert message.startswith(f"template {tmp_path / 'reply.j2'}, line 2: a call (of methods there are split, ")
    assert message.endswith("is no part of the template language")


def test_an_unknown_filter_is_refused_at_load_even_where_it_is_not_used(tmp_path: Path) -> None:
    write(tmp_path, "x{% if false %}{{ post.title | centre }}{% endif %}")

    message = refusal(tmp_path)

    assert "line 2: no filter named 'centre'; there are abs, capitalize, count, " in message
    assert "counted" not in message


# What it may do


BOMBS = {
    "range": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ (10**10)**(10**8) }}",
    "power of a count": "{{ (traits | length) ** 99999999 }}",
    "repeated text": "{{ 'a' * 10**11 }}",
    "repeated text, constants only": "{{ 'a' * 100000000000 }}",
    "repeated list": "{{ [0] * 100000000000 }}",
    "numbers": "{% set a = 999999999999999 %}" + "{% set a = a * a %}" * 40 + "{{ a }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "center": "{{ 'a'.center(10000000000) }}",
    "indent": "{{ post.text | indent(1000000000, true) }}",
    "indent of each": "{{ traits | map(attribute='slug') | map('indent', 1000000000, true) | list }}",
    "join": "{{ post.text | list | join('x' * 10) }}",
    "round": "{{ 1.5 | round(1000000000) }}",
    "nested loops": "".join(f"{{% for x{k} in post.text %}}" for k in range(18)) + "x" + "{% endfor %}" * 18,
    "nested loops that print nothing": "".join(f"{{% for x{k} in post.text %}}" for k in range(9)) + "{% endfor %}" * 9,
    "doubled by ~": "{% set a = 'aaaaaaaa' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
    "doubled by +": "{% set a = 'aaaaaaaa' %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
    "doubled lists": "{% set a = traits %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
    "lists of one another": "{% set a = traits %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "maps of one another": "{% set a = traits %}" + "{% set a = {'x': a, 'y': a} %}" * 60 + "{{ a }}",
    "lists by default": "{% set a = traits %}" + "{% set a = a | map(attribute='no', default=a) %}" * 60 + "{{ a }}",
    "doubled by replace": "{% set a = 'aaaaaaaa' %}" + "{% set a = a.replace('a', 'aa') %}" * 60 + "{{ a }}",
    "doubled quotes": "{% set a = '\"\"\"' %}" + "{% set a = a | tojson %}" * 200 + "{{ a }}",
    "captured": "{% set a %}x{% endset %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 60 + "{{ a }}",
    "printed": "{% set a = 'a' %}" + "{% set a = a ~ a %}" * 20 + "{{ a }}" * 30,
    "printed by a loop": "{% for x in post.text %}" * 4 + "{{ post.text }}" * 100 + "{% endfor %}" * 4,
    "a macro that calls itself": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "lists in lists": "{{ " + "[" * 50_000 + "]" * 50_000 + " }}",
    "blocks in blocks": "".join(f"{{% for x{k} in traits %}}" for k in range(60)) + "{% endfor %}" * 60,
    "attributes of attributes": "{{ post" + ".a" * 60_000 + " }}",
    "a long chain of conditions": "{% if 0 %}" + "{% elif 0 %}" * 15_000 + "{% endif %}",
    "blocks of blocks": "".join(f"{{% block b{k} %}}" for k in range(3000)) + "{% endblock %}" * 3000,
    "digits": "{{ " + "9" * 5000 + " }}",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_a_clear_error(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, BOMBS[name])

    assert len(message) < 1000
    assert not message.endswith(": ")


def test_work_is_counted_not_timed(tmp_path: Path) -> None:
    loops = "{% for a in traits %}" * 12 + "x" + "{% endfor %}" * 12

    message = refused(tmp_path, loops.replace("traits", "post.text"))

    assert f"does more work than a prompt may ({MAX_WORK} " in message
    assert len(rendered(tmp_path, loops)) == 2**12


def test_a_long_post_is_not_the_fault_of_the_template(tmp_path: Path) -> None:
    text = "A long post. " * (MAX_WORK // 10)

    assert (
        rendered(tmp_path, "{{ post.text | trim | replace('long', 'very long') }}", text=text).count("very") > 900_000
    )


def test_each_row_begins_with_its_own_allowance(tmp_path: Path) -> None:
    template = written(tmp_path, "{% for a in post.text %}{% for b in post.text %}{% endfor %}{% endfor %}x")
    post = POST | {"text": "a" * 1000}

    assert {template.render(post=post, traits=[])["user"] for _ in range(5)} == {"x"}


def test_a_template_larger_than_any_prompt_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "x" * 300_000)

    assert "larger than 262144 bytes" in refusal(tmp_path)
