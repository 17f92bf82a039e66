"""The dataset card: a header that the Hub and `datasets` read, and a body that no text can break out of."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from pipeline.card.render import render_card
from schemas.arrow import arrow_schema, card_features
from schemas.config import BuildConfig
from schemas.loader import validate
from schemas.manifest import Counts, FileEntry, Manifest, VerificationCounts
from schemas.records import Example
from schemas.report import Figure
from tests.pipeline.helpers import DUMMY, made_manifest
from tests.pipeline.report import fake

DATASETS = ("ultrafeedback", "helpsteer2", "pku_saferlhf")
MINING = {"source": {"kind": "threads", "path": ["packaged"]}}


SEEN = {"train": 0.8, "validation": 0, "test": 0.1, "test_seen_users": 0.1}
USERS: dict[str, Any] = {"persona": "users", "users": {"count": 30}, "pairs": None}


def manifest(rows: tuple[int, ...] = (900, 0, 100), **config: Any) -> Manifest:
    settings = validate(BuildConfig, {"name": "my-set", "pairs": 500} | config, "test")
    files = tuple(
        FileEntry(path=f"data/{split}-00000-of-00001.parquet", rows=count, bytes=10 * count, sha256="0" * 64)
        for split, count in zip(("train", "validation", "test"), rows, strict=True)
    )
    return made_manifest(
        name=settings.name,
        parts={"templates": {"reply": "abcdef0123456789"}},
        config=settings.model_dump(mode="json"),
        counts=Counts(pairs_asked=600, pairs_accepted=500, examples=1000, rejected={"validate/empty": 7}),
        files=files,
    )


def header(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_columns_are_listed_as_datasets_lists_them() -> None:
    from datasets import Features

    schema = arrow_schema(Example)
    assert card_features(schema) == Features.from_arrow_schema(schema)._to_yaml_list()


def test_header_is_one_that_the_hub_takes() -> None:
    from huggingface_hub import DatasetCard

    given = {"license": "cc-by-4.0", "languages": ["de", "en"], "title": "Mine: a set", "tags": ["forum", "dpo"]}
    text = render_card(manifest(card=given), None)

    data: Any = DatasetCard(text).data
    assert (data.license, data.language, data.pretty_name) == ("cc-by-4.0", ["de", "en"], "Mine: a set")
    assert data.size_categories == ["1K<n<10K"] and data.task_categories == ["text-generation"]
    assert data.tags.count("dpo") == 1 and "forum" in data.tags
    assert header(text)["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*.parquet"},
                {"split": "test", "path": "data/test-*.parquet"},
            ],
        }
    ]
    assert header(text)["dataset_info"]["splits"] == [
        {"name": "train", "num_bytes": 9000, "num_examples": 900},
        {"name": "test", "num_bytes": 1000, "num_examples": 100},
    ]
    assert header(text)["dataset_info"]["download_size"] == 10_000


@pytest.mark.parametrize(
    ("rows", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (1_311_622, "1M<n<10M"), (10**8, "10M<n<100M")]
)
def test_size_category(rows: int, category: str) -> None:
    assert header(render_card(manifest((rows, 0, 0)), None))["size_categories"] == [category]


def test_unstated_facts_are_not_claimed() -> None:
    text = render_card(manifest(), None)
    assert "license" not in header(text) and "language" not in header(text)
    assert "No licence is stated" in text
    assert header(render_card(manifest(rules={"language": "fr"}), None))["language"] == ["fr"]
    assert "## Quality" not in text and "## An example" not in text


def test_every_column_is_explained() -> None:
    table = render_card(manifest(), None).split("## Columns")[1].split("##")[0]
    assert len(re.findall(r"^\| `[^`]+` \| `[^`]+` \| [^|]{10,} \|$", table, re.MULTILINE)) == len(Example.model_fields)


@pytest.mark.parametrize(
    ("config", "there", "absent"),
    [
        ({}, ["Sampled pairs", "`packaged:smollm2-135m-instruct`", "occurs twice"], ["Mined pairs", "scrubbed"]),
        ({"mining": MINING}, ["Mined pairs", "patterns", "inferred from single replies"], ["Sampled pairs"]),
        ({"mining": MINING | {"share": 0.5}}, ["Mined pairs", "Sampled pairs", "drawn at random"], []),
        (
            {"mining": MINING | {"annotation": {"mode": "given"}}},
            ["| model | none |", "no model annotated them"],
            ["smollm2"],
        ),
        ({"mirror": False}, [], ["occurs twice"]),
        ({"portrait": "paper"}, ["which reveals the label"], ["direction alone"]),
        ({"generation": {"model": "/home/me/models/llama"}}, ["`llama`"], ["/home"]),
        (
            USERS,
            ["**Users**: each of 30 users", "**Histories** are other pairs of the same user", "They are by user too"],
            ["that fit the person's direction", "with other posts", "Near pairs", "Restraint pairs"],
        ),
        (USERS | {"splits": SEEN}, ["in train, with other posts"], []),
        (
            USERS | {"mining": MINING | {"share": 0.5}},
            ["**Histories** of sampled pairs are other pairs", "**Histories** of mined pairs are pairs about"],
            [],
        ),
        ({"kinds": {"near": 0.2}}, ["**Near pairs**", "Every pair occurs twice"], ["Restraint", "**Users**"]),
        ({"kinds": {"restraint": 0.1}}, ["**Restraint pairs**", "Every pair but those of restraint"], ["Near pairs"]),
        ({"style": "assistant"}, ["that serves the opposite person"], ["voice of"]),
        ({}, ["voice of the opposite person"], ["that serves", "of the same user", "by user", "of the user"]),
    ],
)
def test_how_it_was_made(config: dict[str, Any], there: list[str], absent: list[str]) -> None:
    # Columns mean the same in every build.
    text = re.sub(r"## Columns.*?## From", "", render_card(manifest(**config), None), flags=re.DOTALL)
    assert all(part in text for part in there)
    assert not any(part in text for part in absent)


SOURCES: dict[str, dict[str, Any]] = {
    "sampled": {},
    "dump": {"mining": {"source": {"kind": "dump", "submissions": ["a.jsonl"], "comments": ["b.jsonl"]}}},
    "threads": {"mining": MINING},
    "json": {"mining": MINING | {"annotation": {"mode": "json"}}},
    "given": {"mining": MINING | {"annotation": {"mode": "given"}}},
    "mixed": {"mining": MINING | {"share": 0.5}},
    **{kind: {"mining": {"source": {"kind": kind, "path": ["a.jsonl"]}}} for kind in DATASETS},
    "mixed ratings": {"mining": {"source": {"kind": "ultrafeedback", "path": ["a.jsonl"]}, "share": 0.5}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unscrubbed": {"scrub": False},
    "one-sided": {"mirror": False},
    "portrait by a model": {"portrait": "model"},
    "portrait of the paper": {"portrait": "paper"},
    "no history": {"history": {"ugc": 0, "pair": 0}},
    "consistency of the paper": {"history": {"consistency": "paper"}},
    "dummy": DUMMY,
    "own posts": {"seeds": {"path": "mine.jsonl"}},
    "no rules": {"rules": {"refusals": [], "markup": []}},
    "language": {"rules": {"language": "fr"}},
    "license": {"card": {"license": "cc-by-4.0"}},
}


def claims(config: BuildConfig) -> dict[str, bool]:
    """Return every optional sentence of a card, and whether it is true of this build."""
    mining = config.mining
    is_mined, is_sampled = mining is not None, mining is None or mining.share < 1
    is_rated = mining is not None and mining.source.kind in DATASETS
    is_given = mining is not None and not is_rated and mining.annotation.mode == "given"
    is_annotated = is_mined and not is_rated and not is_given
    has_histories = config.history.ugc + config.history.pair > 0
    is_strict = config.history.consistency == "strict" or not is_mined
    return {
        "Every pair occurs twice": config.mirror,
        "No model was used": config.engine.kind == "dummy",
        "**Sampled pairs**": is_sampled,
        "refusals or talk about the task": is_sampled and bool(config.rules.refusals),
        "full of markup": is_sampled and bool(config.rules.markup),
        "not in the language 'fr'": is_sampled and config.rules.language == "fr",
        "**Mined pairs**": is_mined,
        "most of them by models": is_rated,
        "A model annotates each": is_annotated,
        "that came with levels on the dimensions of the space": is_given,
        "**Histories**": has_histories,
        "and contradict it in no dimension": has_histories and is_strict,
        "those of sampled pairs contradict it in no dimension": has_histories and not is_strict and is_sampled,
        "by a template from the direction alone": config.portrait == "template",
        "by the model from the direction alone": config.portrait == "model",
        "which reveals the label": config.portrait == "paper",
        "posts -> sample a direction": is_sampled,
        "threads -> annotate replies": is_annotated,
        "threads -> levels of replies": is_given,
        "ratings -> levels of replies": is_rated,
        "temperature, top-p": is_sampled or config.portrait != "template",
        "| model | none |": not is_sampled and not is_annotated and config.portrait == "template",
        "drawn at random and acted out by a model": is_sampled,
        "inferred from single replies by a model": is_annotated,
        "taken from ratings of single responses": is_rated,
        "taken from levels that came with single replies": is_given,
        "patterns replaced user names": mining is not None and mining.scrub,
        "names of people were not searched": mining is not None and mining.scrub,
        "Personal data in mined posts and replies were not removed": mining is not None and not mining.scrub,
        "Personal data in the posts of sampled pairs were not removed": is_sampled and config.seeds.path != "packaged",
        "No licence is stated": config.card.license is None,
        "scrubbed of names": False,
    }


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_sentence_is_true(source: str, option: str) -> None:
    given = SOURCES[source] | {key: value for key, value in OPTIONS[option].items() if key != "scrub"}
    if option == "unscrubbed" and "mining" in given:
        given["mining"] = given["mining"] | {"scrub": False}
    built = manifest(**given)
    text = " ".join(render_card(built, None).split())

    for sentence, is_so in claims(validate(BuildConfig, {"name": "my-set", "pairs": 500} | given, "test")).items():
        assert (sentence in text) == is_so, (sentence, text)


def test_splits_are_spoken_of_where_there_are_some() -> None:
    assert "**Splits** are by post" in render_card(manifest(), None)
    assert "**Splits** are by post" not in render_card(manifest((900, 0, 0)), None)


def test_funnel_and_place() -> None:
    text = render_card(manifest(), "me/my-set")
    assert "1000 examples from 500 of 600 configured pairs" in text and "| validate/empty | 7 |" in text
    assert 'load_dataset("me/my-set")' in text


def test_a_report_adds_figures_pictures_and_an_example() -> None:
    report = fake.report()
    text = render_card(manifest(), None, report, [Figure("figures/balance.png", "How [even] the dimensions are")])
    assert "![How \\[even\\] the dimensions are](figures/balance.png)" in text
    quality = text.split("## Quality")[1].split("##")[0]
    assert f"| Histories that contradict the target | {report.history.contradicting} | 0 |" in quality
    assert f"AUC {report.lengths.length_auc:.3f}" in quality
    assert report.shown[0].chosen[:40] in text.split("## An example")[1]


def test_texts_stay_texts() -> None:
    evil = "</script><script>alert(1)</script>\n```\n````\n# Heading\n![x](http://x.invalid/y.png)\x1b[31m\u202e"
    report = fake.report()
    shown = report.shown[0].model_copy(update={"prompt": evil, "chosen": evil, "rejected": evil, "profile": evil})
    description = "<img src=x onerror=alert(1)> [link](javascript:alert(1)) | `code`"
    text = render_card(
        manifest(card={"description": description}), None, report.model_copy(update={"shown": (shown,)}), ()
    )
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside and "<img" not in outside
    assert "\n# Heading" not in outside
    # A bracket with a backslash before it ends no link.
    assert not re.search(r"(?<!\\)\]\((?:javascript|http://x)", outside)
    assert "\x1b" not in text and "\u202e" not in text
    assert len(re.findall(r"^`{5}text$", text, re.MULTILINE)) == 3


JUDGED = VerificationCounts(pairs=600, asked=2000, recovered=1580, kept=1300, neutral=200)


def table_of(text: str, title: str) -> list[list[str]]:
    """Return the cells of the first table below a title."""
    lines = text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def test_a_card_shows_first_what_the_judge_found() -> None:
    build = manifest(verification={"mode": "filter", "model": "big/judge"}, generation={"model": "small/writer"})
    build = build.model_copy(update={"counts": build.counts.model_copy(update={"verification": JUDGED})})

    text = render_card(build, None, fake.report())

    assert text.index("## Are the directions true?") < text.index("## How it was made")
    assert "A judge, `big/judge`," in text and "| judge | `big/judge` |" in text
    rows = table_of(text, "Are the directions true?")
    found = fake.report().verification
    assert found is not None
    low, high = found.recovery.low, found.recovery.high
    assert low is not None and high is not None
    assert rows[0][1] == f"83.6 % of 84120, 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    assert rows[1][1] == "200 of 1500"
    assert "-0.004" in rows[3][1]


def test_a_card_without_a_report_shows_the_counts_of_the_judge() -> None:
    build = manifest(verification={"mode": "record"})
    build = build.model_copy(update={"counts": build.counts.model_copy(update={"verification": JUDGED})})

    text = render_card(build, None)

    assert [row[1] for row in table_of(text, "Are the directions true?")] == ["79.0 % of 2000", "200 of 1500"]
    assert "are neutral in the rows" not in text


KINDS = {"opposite": 400, "near": 60, "restraint": 40}


@pytest.mark.parametrize("has_report", [False, True])
def test_a_card_counts_kinds_and_what_the_judge_found_of_each(has_report: bool) -> None:
    report = fake.report()
    by_kind = {"opposite": JUDGED, "near": JUDGED.model_copy(update={"recovered": 1000})}
    counts = manifest().counts.model_copy(update={"kinds": KINDS, "verification_by_kind": by_kind})
    build = manifest(verification={"mode": "record"}).model_copy(update={"counts": counts})

    rows = table_of(render_card(build, None, report if has_report else None), "How it was made")[:3]

    assert [row[:2] for row in rows] == [[f"`{kind}`", str(number)] for kind, number in KINDS.items()]
    if has_report:
        found = [figures.recovery.value for figures in report.kinds if figures.recovery]
        assert [row[2].split(" %")[0] for row in rows] == [f"{100 * share:.1f}" for share in found]
    else:
        assert [row[2] for row in rows] == ["79.0 % of 2000", "50.0 % of 2000", ""]


def test_kinds_that_no_judge_saw_have_no_column_of_findings() -> None:
    build = manifest()
    counts = build.counts.model_copy(update={"kinds": KINDS})

    rows = table_of(render_card(build.model_copy(update={"counts": counts}), None), "How it was made")[:3]

    assert rows == [[f"`{kind}`", str(number)] for kind, number in KINDS.items()]


def test_kinds_of_any_build_are_no_table() -> None:
    build = manifest()
    counts = build.counts.model_copy(update={"kinds": {"opposite": 400, "mined": 100}})
    assert "| kind |" not in render_card(build.model_copy(update={"counts": counts}), None)


def test_a_card_of_a_build_without_a_judge_claims_none() -> None:
    text = render_card(manifest(), None)
    assert "judge" not in text.split("# my-set")[1].split("## Columns")[0]
    assert "Rules have checked the replies, not people." in text
