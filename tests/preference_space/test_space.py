from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from preference_space.space import Dimension, Pole, PreferenceSpace, load_space
from schemas.base import UsageError
from schemas.config import PACKAGED_SPACES
from tests import ROOT

TABLE = ROOT.parent / "shared" / "data" / "alignx_dimensions.tsv"

OWN = """\
name: own
dimensions:
  - slug: brevity
    name: Brevity
    group: style
    source: ours
    question: Is the reply short?
    positive:
      label: Likes short replies
      description: likes short replies
      hint: Be brief.
    negative:
      label: Likes long replies
      description: likes long replies
      hint: Take your time.
  - slug: sailing
    name: Sailing
    group: interests
    source: ours
    topical: true
    question: Does the writer care about sailing?
    positive:
      label: Likes sailing
      description: loves to sail
      hint: Bring up a boat.
    negative:
      label: Dislikes sailing
      description: stays ashore
      hint: Complain about boats.
"""


SAILING = OWN[OWN.index("  - slug: sailing") :]


def extending(base: str, dimensions: str = SAILING) -> str:
    return f"name: more\nextends: {base}\ndimensions:\n{dimensions}"


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_space(path)
    return str(caught.value)


def test_alignx_has_ninety_dimensions() -> None:
    assert len(load_space("alignx")) == 90


def test_alignx_equals_the_released_table_to_the_letter() -> None:
    if not TABLE.exists():
        pytest.skip(f"the released table is not here: {TABLE}")
    header, *rows = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines()]
    assert header == ["index", "name", "group", "source", "positive_label", "negative_label"]

    ours = [
        [str(index), d.name, d.group, d.source, d.positive.label, d.negative.label]
        for index, d in enumerate(load_space("alignx").dimensions)
    ]

    assert ours == rows


def test_alignx_has_unique_slugs() -> None:
    assert len({dimension.slug for dimension in load_space("alignx").dimensions}) == 90


def test_alignx_has_slugs_apart_from_its_groups() -> None:
    dimensions = load_space("alignx").dimensions

    assert not {d.slug for d in dimensions} & {d.group for d in dimensions}


def test_the_interest_tags_of_alignx_are_its_topical_dimensions() -> None:
    dimensions = load_space("alignx").dimensions

    assert [d.topical for d in dimensions] == [False] * 47 + [True] * 43
    assert {d.group for d in dimensions[47:]} == {"interests"}


@pytest.mark.parametrize("name", PACKAGED_SPACES)
def test_every_text_of_a_packaged_space_is_written_once(name: str) -> None:
    dimensions = load_space(name).dimensions
    texts = [d.question for d in dimensions]
    for d in dimensions:
        for pole in (d.positive, d.negative):
            texts += [pole.description, pole.hint, pole.service]

    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", PACKAGED_SPACES)
def test_an_assistant_knows_in_one_sentence_how_to_serve_each_pole_of_a_packaged_space(name: str) -> None:
    for dimension in load_space(name).dimensions:
        for pole in (dimension.positive, dimension.negative):
            assert pole.service.endswith("."), dimension.slug
            assert pole.service.count(".") == 1, dimension.slug
            # An answer that repeated the label would name the trait to its reader.
            assert pole.label.casefold() not in pole.service.casefold(), dimension.slug


def test_portrait_descriptions_of_alignx_fit_into_a_sentence() -> None:
    for dimension in load_space("alignx").dimensions:
        for pole in (dimension.positive, dimension.negative):
            assert not pole.description.endswith("."), pole.description
            assert not pole.description.startswith("This person"), pole.description


def test_own_space_of_two_dimensions_loads(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, OWN))

    assert (space.name, len(space)) == ("own", 2)
    assert space.dimensions[1].negative.hint == "Complain about boats."


def test_own_space_loads_by_a_path_in_words(tmp_path: Path) -> None:
    assert load_space(str(write(tmp_path, OWN))).name == "own"


def test_dimension_is_topical_only_where_it_says_so(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, OWN))

    assert [dimension.topical for dimension in space.dimensions] == [False, True]


def test_index_is_the_position_of_each_slug(tmp_path: Path) -> None:
    assert load_space(write(tmp_path, OWN)).index == {"brevity": 0, "sailing": 1}


def test_pole_of_a_level(tmp_path: Path) -> None:
    dimension = load_space(write(tmp_path, OWN)).dimensions[0]

    assert dimension.pole(1) is dimension.positive
    assert dimension.pole(-1) is dimension.negative


@pytest.mark.parametrize(
    ("line", "replacement", "where", "what"),
    [
        ("    question: Is the reply short?\n", "", "0 (brevity)", "'question' is required: a text"),
        ("      hint: Complain about boats.\n", "", "1 (sailing)", "'negative.hint' is required: a text"),
        ("    name: Brevity\n", "    name: 5\n", "0 (brevity)", "'name' is 5; expected a text"),
        ("label: Likes sailing", "label: yes", "1 (sailing)", "'positive.label' is true; expected a text"),
        ("topical: true", "topical: 1", "1 (sailing)", "'topical' is 1; expected true or false"),
        (
            "    group: style\n",
            "    group: ' '\n",
            "0 (brevity)",
            "'group' is the text \" \"; expected a text that is not",
        ),
        (
            "slug: brevity",
            "slug: Be brief",
            "0 (Be brief)",
            "'slug' is the text \"Be brief\"; expected a text of small",
        ),
        ("slug: brevity", "slag: brevity", "0 (no slug)", "'slug' is required"),
        ("slug: brevity", "slag: brevity", "0 (no slug)", "unknown key 'slag'; did you mean 'slug'?"),
        (
            "    source: ours\n",
            "    source: ours\n    colour: red\n",
            "0 (brevity)",
            "unknown key 'colour'; ",
        ),
    ],
)
def test_error_names_file_dimension_and_key(tmp_path: Path, line: str, replacement: str, where: str, what: str) -> None:
    path = write(tmp_path, OWN.replace(line, replacement, 1))

    message = refusal(path)

    assert message.startswith(f"{path}: ")
    assert f"dimension {where}: {what}" in message


def test_dimension_that_is_no_mapping_is_named_by_its_position(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "name: own\ndimensions: [brevity]\n"))

    assert "dimension 0 (not a mapping)" in message


def test_duplicate_slug_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, OWN.replace("slug: sailing", "slug: brevity"))

    assert refusal(path) == f"{path}: 'slug': 'brevity' is used more than once, by dimensions 0 and 1"


@pytest.mark.parametrize("taken", ["Likes short replies", "Likes sailing"])
def test_duplicate_label_is_named(tmp_path: Path, taken: str) -> None:
    path = write(tmp_path, OWN.replace("label: Dislikes sailing", f"label: {taken}"))

    assert refusal(path).startswith(f"{path}: 'label': '{taken}' is used more than once, by dimensions ")


@pytest.mark.parametrize("text", ["name: own\ndimensions: []\n", "name: own\n", "name: own\ndimensions: {a: b}\n"])
def test_space_without_a_list_of_dimensions_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)

    assert refusal(path).startswith(f"{path}: 'dimensions' is ")


def test_space_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, OWN.replace("name: own\n", ""))

    assert refusal(path).startswith(f"{path}: 'name' is required")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"

    assert refusal(path) == f"{path}: no such file"


def test_to_yaml_round_trips_alignx(tmp_path: Path) -> None:
    space = load_space("alignx")

    assert load_space(write(tmp_path, space.to_yaml())) == space


def test_to_yaml_keeps_texts_that_yaml_would_read_as_something_else(tmp_path: Path) -> None:
    tricky = ["yes", "1e3", "null", "a: b # c", "- item", "Größe 😀", "two\nlines"]
    poles = [Pole(label=text, description=text, hint=text) for text in tricky]
    space = PreferenceSpace(
        name="no",
        dimensions=tuple(
            Dimension(
                slug=f"d{k}", name="on", group="off", source="~", topical=False, question="?", positive=a, negative=b
            )
            for k, (a, b) in enumerate(zip(poles[0::2], poles[1::2], strict=False))
        ),
    )

    assert load_space(write(tmp_path, space.to_yaml())) == space


def test_fingerprint_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    space = load_space("alignx")

    assert load_space(write(tmp_path, space.to_yaml())).fingerprint == space.fingerprint


def test_fingerprint_does_not_depend_on_the_form_of_the_file(tmp_path: Path) -> None:
    plain = load_space(write(tmp_path, OWN))

    flow = load_space(write(tmp_path, "# a comment\n" + yaml.safe_dump(yaml.safe_load(OWN), default_flow_style=True)))

    assert flow.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "old",
    [
        "name: own",
        "brevity",
        "Brevity",
        "style",
        "source: ours",
        "Is the reply short?",
        "Likes short replies",
        "likes long replies",
        "Be brief.",
        "Dislikes sailing",
        "stays ashore",
        "Complain about boats.",
    ],
)
def test_fingerprint_changes_with_any_text(tmp_path: Path, old: str) -> None:
    before = load_space(write(tmp_path, OWN)).fingerprint

    after = load_space(write(tmp_path, OWN.replace(old, f"{old}x", 1))).fingerprint

    assert after != before


def test_fingerprint_changes_with_the_topical_flag(tmp_path: Path) -> None:
    before = load_space(write(tmp_path, OWN)).fingerprint

    assert load_space(write(tmp_path, OWN.replace("topical: true", "topical: false"))).fingerprint != before


def test_fingerprint_changes_with_the_order_of_dimensions(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, OWN))

    turned = PreferenceSpace(name=space.name, dimensions=space.dimensions[::-1])

    assert turned.fingerprint != space.fingerprint


def test_traits_are_the_poles_of_a_direction_in_the_order_of_the_space() -> None:
    space = load_space("alignx")
    direction = np.zeros(len(space), dtype=np.int8)
    direction[[5, 2]] = [-1, 1]

    found = space.traits(direction)

    assert [trait["slug"] for trait in found] == [space.dimensions[2].slug, space.dimensions[5].slug]
    assert found[0]["label"] == space.dimensions[2].positive.label
    assert found[1]["hint"] == space.dimensions[5].negative.hint
    assert found[1]["description"] == space.dimensions[5].negative.description


def test_space_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_space("alignx").name = "mine"  # type: ignore[misc]


def test_a_space_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds more than 64 nested lists or maps"):
        load_space(write(tmp_path, "[" * 100))


# Extended spaces


def test_an_extended_space_has_the_dimensions_of_the_base_and_then_its_own(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, extending("alignx")))

    assert space.name == "more"
    assert space.dimensions[:-1] == load_space("alignx").dimensions
    assert space.dimensions[-1].slug == "sailing"


def test_a_dimension_of_the_same_slug_replaces_that_of_the_base_in_its_place(tmp_path: Path) -> None:
    base = load_space("alignx")

    space = load_space(write(tmp_path, extending("alignx", SAILING.replace("slug: sailing", "slug: openness"))))

    place = base.index["openness"]
    assert space.index == base.index
    assert space.dimensions[place].name == "Sailing"
    assert space.dimensions[:place] + space.dimensions[place + 1 :] == (
        base.dimensions[:place] + base.dimensions[place + 1 :]
    )


def test_a_space_extends_a_file_beside_it_which_may_extend_another(tmp_path: Path) -> None:
    write(tmp_path, OWN.replace("sailing", "rowing").replace("Sailing", "Rowing"), "first.yaml")
    write(tmp_path, extending("first.yaml"), "second.yaml")
    skiing = SAILING.replace("sailing", "skiing").replace("Sailing", "Skiing")

    space = load_space(write(tmp_path, extending("second.yaml", skiing), "third.yaml"))

    assert [*space.index] == ["brevity", "rowing", "sailing", "skiing"]


def test_an_extended_space_is_stored_whole(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, extending("alignx")))

    stored = space.to_yaml()

    assert "extends" not in stored
    assert load_space(write(tmp_path, stored, "stored.yaml")) == space


def test_a_fault_of_the_base_names_its_file_and_dimension(tmp_path: Path) -> None:
    base = write(tmp_path, OWN.replace("    name: Sailing\n", ""), "base.yaml")
    path = write(tmp_path, extending("base.yaml"))

    assert (
        refusal(path)
        == f"{base} (extended by {path}): dimension 1 (sailing): 'name' is required: a text that is not empty"
    )


def test_a_missing_base_is_named_with_the_file_that_extends_it(tmp_path: Path) -> None:
    path = write(tmp_path, extending("alingx"))

    assert refusal(path) == f"{tmp_path / 'alingx'} (extended by {path}): no such file"


def test_a_fault_of_an_extension_names_its_own_dimension(tmp_path: Path) -> None:
    path = write(tmp_path, extending("alignx", SAILING.replace("    name: Sailing\n", "")))

    assert refusal(path) == f"{path}: dimension 0 (sailing): 'name' is required: a text that is not empty"


def test_a_label_of_the_base_may_not_be_used_again(tmp_path: Path) -> None:
    path = write(tmp_path, extending("alignx", SAILING.replace("Likes sailing", "Likes music", 1)))

    place = load_space("alignx").index["music"]
    assert refusal(path) == (
        f"{path} (with the dimensions of 'alignx'): 'label': 'Likes music' is used more than once, "
        f"by dimensions {place} and 90"
    )


@pytest.mark.parametrize("back", ["own.yaml", "../{folder}/own.yaml"])
def test_spaces_that_extend_each_other_are_refused(tmp_path: Path, back: str) -> None:
    write(tmp_path, extending(back.format(folder=tmp_path.name)), "base.yaml")

    assert "'extends' leads back to" in refusal(write(tmp_path, extending("base.yaml")))


def test_alignx_plus_is_alignx_with_humor_about_any_post_and_with_pragmatism() -> None:
    base, space = load_space("alignx"), load_space("alignx_plus")

    changed = [dimension.slug for dimension in space.dimensions if dimension not in base.dimensions]
    assert changed == ["humor", "pragmatism"]
    assert [*space.index] == [*base.index, "pragmatism"]
    assert not any(space.dimensions[space.index[slug]].topical for slug in changed)
