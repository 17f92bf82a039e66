from __future__ import annotations

from pathlib import Path

import pytest

from prompts.renderer import BLOCKS, INPUTS, load_templates
from schemas.base import UsageError
from tests.prompts.templates import DIMENSION, OPTIONS, POST, PROMPT, inputs_of, load, refusal, trait, write


def render_refusal(folder: Path) -> str:
    template = load(folder)
    with pytest.raises(UsageError) as caught:
        template.render(post=POST, traits=[trait("calm")])
    return str(caught.value)


def test_packaged_templates_load() -> None:
    assert load_templates().keys() == INPUTS.keys()


@pytest.mark.parametrize("name", INPUTS)
def test_packaged_template_renders_all_of_its_blocks(name: str) -> None:
    blocks = load_templates()[name].render(**inputs_of(name))

    assert tuple(blocks) == BLOCKS[name]
    assert all(text and text == text.strip() for text in blocks.values())


@pytest.mark.parametrize("name", INPUTS)
def test_the_comment_is_not_rendered(name: str) -> None:
    template = load_templates()[name]

    text = "".join(template.render(**inputs_of(name)).values())

    comment = template.source.partition("#}")[0].removeprefix("{#").strip()
    assert comment
    assert comment not in text


def test_the_two_replies_share_their_prompt_up_to_the_persona() -> None:
    templates = load_templates()

    chosen = templates["reply"].render(post=POST, traits=[trait("calm"), trait("kind")])
    rejected = templates["reply"].render(post=POST, traits=[trait("wild"), trait("rude")])

    assert chosen["system"] == rejected["system"]
    before = chosen["user"].partition("calm hint")[0]
    assert before == rejected["user"].partition("wild hint")[0]
    assert "Which pet?\nA cat or a dog." in before


def test_persona_text_comes_last() -> None:
    user = load_templates()["reply"].render(post=POST, traits=[trait("calm"), trait("kind")])["user"]

    assert user.endswith("kind hint")
    assert user.index("calm hint") > user.index(PROMPT.partition("\n\n")[2])


def test_every_trait_is_in_the_prompt() -> None:
    words = [f"word{k}" for k in range(6)]

    user = load_templates()["reply"].render(post=POST, traits=[trait(word) for word in words])["user"]

    assert all(f"{word} hint" in user for word in words)


def test_an_assistant_is_told_how_to_serve_and_not_how_to_speak() -> None:
    user = load_templates()["reply_assistant"].render(post=POST, traits=[trait("calm"), trait("kind")])["user"]

    assert user.startswith("Message: Which pet?\nA cat or a dog.\n")
    assert user.endswith("- calm service\n- kind service")
    assert not any(f"{word} {field}" in user for word in ("calm", "kind") for field in ("hint", "label", "description"))


@pytest.mark.parametrize("name", ["reply", "reply_assistant"])
def test_a_reply_without_traits_is_a_plain_answer(name: str) -> None:
    template = load_templates()[name]

    plain, written = template.render(post=POST, traits=[]), template.render(post=POST, traits=[trait("calm")])

    assert plain["system"] == written["system"]
    assert plain["user"].partition("\n\n")[0] == written["user"].partition("\n\n")[0]
    assert "Answer the question plainly and correctly" in plain["user"]
    assert "\n- " not in plain["user"]


@pytest.mark.parametrize("name", ["portrait_text", "portrait_model"])
def test_portraits_need_no_post(name: str) -> None:
    blocks = load_templates()[name].render(traits=[trait("calm"), trait("kind")])

    assert "calm description" in blocks.get("text", blocks.get("user", ""))


def test_portrait_text_is_one_sentence() -> None:
    text = load_templates()["portrait_text"].render(traits=[trait("calm"), trait("kind")])["text"]

    assert text == "This person calm description; kind description."


def test_post_text_is_rendered_literally() -> None:
    text = "{{ 7*7 }} {% for x in y %} {# note #} <b>&amp;</b>"
    post = {"title": "{{ post.id }}", "text": text, "topics": []}

    user = load_templates()["reply"].render(post=post, traits=[trait("calm")])["user"]

    assert f"{{{{ post.id }}}}\n{text}" in user


def test_trait_text_is_rendered_literally() -> None:
    user = load_templates()["reply"].render(post=POST, traits=[trait("{{ 7*7 }}")])["user"]

    assert user.endswith("{{ 7*7 }} hint")


def test_rendering_twice_gives_the_same_text() -> None:
    template = load_templates()["reply"]

    first, second = (template.render(post=POST, traits=[trait("calm")]) for _ in range(2))

    assert first == second


def test_override_replaces_the_template_of_its_name(tmp_path: Path) -> None:
    template = load(write(tmp_path, "Reply to {{ post.title }}"))

    assert template.render(post=POST, traits=[]) == {"system": "Be kind.", "user": "Reply to Which pet?"}


def test_override_leaves_the_other_templates_alone(tmp_path: Path) -> None:
    packaged = load_templates()

    templates = load_templates(write(tmp_path, "Reply."))

    assert {name for name in INPUTS if templates[name].fingerprint != packaged[name].fingerprint} == {"reply"}


def test_empty_folder_overrides_nothing(tmp_path: Path) -> None:
    packaged = load_templates()

    templates = load_templates(tmp_path)

    assert all(templates[name].source == packaged[name].source for name in INPUTS)


def test_files_that_are_no_templates_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("{{ nothing }}", encoding="utf-8")

    assert load_templates(tmp_path).keys() == INPUTS.keys()


def test_unknown_template_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "reply_choosen.j2"
    path.write_text("Reply.", encoding="utf-8")

    message = refusal(tmp_path)

    assert message.startswith(f"template {path}: unknown name")
    assert "reply" in message


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "absent"

    assert refusal(folder) == f"templates: {folder} is not a folder"


def test_fingerprint_changes_with_the_text(tmp_path: Path) -> None:
    first = load(write(tmp_path, "Reply.")).fingerprint

    second = load(write(tmp_path, "Reply!")).fingerprint

    assert first != second


def test_fingerprint_is_that_of_the_text_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()

    one, two = (load(write(tmp_path / name, "Reply.")) for name in ("one", "two"))

    assert one.fingerprint == two.fingerprint


def test_variable_that_is_not_given_is_refused_at_load(tmp_path: Path) -> None:
    write(tmp_path, "{{ post.title }} {{ persona }}")

    message = refusal(tmp_path)

    assert str(tmp_path / "reply.j2") in message
    assert "uses 'persona', which is not an input; its inputs are post, traits" in message


def test_variable_in_a_branch_that_is_never_taken_is_refused_at_load(tmp_path: Path) -> None:
    write(tmp_path, "{% if false %}{{ persona }}{% endif %}")

    assert "uses 'persona', which is not an input" in refusal(tmp_path)


def test_variable_of_a_loop_is_no_input(tmp_path: Path) -> None:
    template = load(write(tmp_path, "{% for one in traits %}{{ one.label }}{% endfor %}"))

    assert template.render(post=POST, traits=[trait("calm")])["user"] == "calm label"


@pytest.mark.parametrize(
    ("user", "what"),
    [
        ("{{ post.titel }}", "has no attribute 'titel'"),
        ("{% for one in traits %}{{ one.hnt }}{% endfor %}", "has no attribute 'hnt'"),
        ("{{ traits | map(attribute='hnt') | join }}", "has no attribute 'hnt'"),
        ("{% if post.titel %}{% endif %}", "has no attribute 'titel'"),
        ("{{ traits[7].hint }}", "has no element 7"),
    ],
)
def test_missing_attribute_is_refused_at_render_with_the_template(tmp_path: Path, user: str, what: str) -> None:
    write(tmp_path, user)

    message = render_refusal(tmp_path)

    assert message.startswith(f"template {tmp_path / 'reply.j2'}: ")
    assert what in message


def test_packaged_template_names_itself_where_an_input_is_missing() -> None:
    with pytest.raises(UsageError, match=r"template reply\.j2: 'post' is undefined"):
        load_templates()["reply"].render(traits=[])


def test_arithmetic_that_fails_is_refused_at_render(tmp_path: Path) -> None:
    write(tmp_path, "{{ 1 / 0 }}")

    assert "division by zero" in render_refusal(tmp_path)


@pytest.mark.parametrize("block", ["system", "user"])
def test_missing_block_is_named(tmp_path: Path, block: str) -> None:
    path = tmp_path / "reply.j2"
    path.write_text(
        "".join(f"{{% block {name} %}}x{{% endblock %}}" for name in ("system", "user") if name != block),
        encoding="utf-8",
    )

    assert refusal(tmp_path) == f"template {path}: has no block '{block}'"


def test_plain_text_template_needs_a_text_block(tmp_path: Path) -> None:
    path = tmp_path / "portrait_text.j2"
    path.write_text("{% block user %}x{% endblock %}", encoding="utf-8")

    assert refusal(tmp_path) == f"template {path}: has no block 'text'"


@pytest.mark.parametrize("user", ["{{ post.title", "{% for x in traits %}", "{{ post | nofilter }}", "{% nonsense %}"])
def test_syntax_error_is_refused_at_load_with_its_line(tmp_path: Path, user: str) -> None:
    write(tmp_path, user)

    assert refusal(tmp_path).startswith(f"template {tmp_path / 'reply.j2'}, line 2: ")


def test_template_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "Réponse.") / "reply.j2"
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))

    assert str(path) in refusal(tmp_path)


# Annotation


def test_the_context_of_an_annotation_ends_with_post_and_response() -> None:
    text = load_templates()["annotate"].render_block("context", post=POST, response="Get a cat.\n\nOr two.")

    assert text.endswith("\n\nPost: Which pet?\nA cat or a dog.\nComment: Get a cat.\n\nOr two.")


def test_a_question_of_an_annotation_ends_where_the_letter_follows() -> None:
    text = load_templates()["annotate"].render_block("question", dimension=DIMENSION, options=OPTIONS)

    assert text.splitlines() == [
        "Question: Is the writer calm?",
        "(A) The comment alone cannot tell",
        "(B) Upset: is easily upset",
        "(C) Calm: keeps a cool head",
        "Answer: (",
    ]


def test_a_question_about_an_assistants_reply_is_whom_it_suits() -> None:
    template = load_templates()["annotate_assistant"]

    context = template.render_block("context", post=POST, response="Get a cat.")
    question = template.render_block("question", dimension=DIMENSION, options=OPTIONS)

    assert context.endswith("\n\nMessage: Which pet?\nA cat or a dog.\nReply: Get a cat.")
    assert question.splitlines() == [
        "Question: Calmness: which person does the reply suit?",
        "(A) The reply suits both alike",
        "(B) Upset: is easily upset",
        "(C) Calm: keeps a cool head",
        "Answer: (",
    ]
    # A worked example ends a question as each question ends, and is one of all three letters.
    answers = [line for line in context.splitlines() if line.startswith("Answer: (")]
    assert {"Answer: (A)", "Answer: (B)", "Answer: (C)"} == set(answers)


def test_a_structured_annotation_asks_for_each_dimension() -> None:
    other = DIMENSION | {"slug": "rich", "question": "Is the writer rich?"}

    text = load_templates()["annotate_json"].render(post=POST, response="Get a cat.", dimensions=[DIMENSION, other])

    assert '"calm": Is the writer calm? positive: Calm; negative: Upset\n"rich": Is the writer rich?' in text["user"]
    assert text["user"].endswith("Comment: Get a cat.")


def test_the_portrait_of_the_paper_sees_both_replies_and_all_names() -> None:
    text = load_templates()["portrait_paper"].render(**inputs_of("portrait_paper"))["user"]

    assert text.index('"calm": positive: Calm; negative: Upset') < text.index("Tags: pets\n") < text.index("Which pet?")
    assert text.endswith("Preferred reply: Get a cat.\n\nOther reply: Get a dog.")


@pytest.mark.parametrize(
    "response",
    ["{{ 7*7 }} {% for x in y %} {# note #}", "a\nAnswer: (A)\nb", "{{ post.title }}", "<b>&amp;</b> \\n %}"],
)
@pytest.mark.parametrize("name", ["annotate", "annotate_json", "portrait_paper", "prefer"])
def test_responses_are_rendered_literally(name: str, response: str) -> None:
    field = {"portrait_paper": "chosen", "prefer": "first"}.get(name, "response")

    texts = load_templates()[name].render(**inputs_of(name) | {field: response})

    assert response in "".join(texts.values())


def test_one_block_is_rendered_as_all_are() -> None:
    template = load_templates()["annotate"]

    assert template.render(**inputs_of("annotate")) == {
        "context": template.render_block("context", post=POST, response="A cat, they are quiet."),
        "question": template.render_block("question", dimension=DIMENSION, options=OPTIONS),
    }


@pytest.mark.parametrize(("name", "unknown"), [("annotate", "persona"), ("annotate_json", "options")])
def test_annotation_templates_refuse_what_they_are_not_given(tmp_path: Path, name: str, unknown: str) -> None:
    blocks = "".join(f"{{% block {block} %}}{{{{ {unknown} }}}}{{% endblock %}}" for block in BLOCKS[name])
    (tmp_path / f"{name}.j2").write_text(blocks, encoding="utf-8")

    assert f"uses '{unknown}', which is not an input" in refusal(tmp_path)


@pytest.mark.parametrize("block", ["context", "question"])
def test_an_annotation_template_needs_both_blocks(tmp_path: Path, block: str) -> None:
    path = tmp_path / "annotate.j2"
    other = {"context": "question", "question": "context"}[block]
    path.write_text(f"{{% block {other} %}}x{{% endblock %}}", encoding="utf-8")

    assert refusal(tmp_path) == f"template {path}: has no block '{block}'"
