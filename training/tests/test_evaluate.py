from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everyuser_train import models, scorers
from everyuser_train.conditions import Condition, partners, personas, plan
from everyuser_train.config import EvalData, EvaluateConfig
from everyuser_train.data import load
from everyuser_train.evaluate import evaluate, sample
from everyuser_train.personas import evaluation_persona
from everyuser_train.prompts import messages
from everyuser_train.report import Report, Result
from everyuser_train.score import Encoded, Scores, model_key
from schemas.base import UsageError, UserError
from tests.spaces import make_space
from tests.tiny import save_adapters, save_tiny, score, tiny_tokenizer

SPACE = make_space("tiny", *((slug, "?", f"Likes {slug}", f"No {slug}") for slug in ("cats", "dogs", "birds")))
WORDS = {("cats", 1): "purr", ("cats", -1): "hush", ("dogs", 1): "woof", ("dogs", -1): "calm"}
"""How a reply shows a pole; portraits and comments have the same words in capitals."""


def rows_of(posts: int, history: int = 3) -> list[dict[str, Any]]:
    """Two persons a post, each other's opposite. `birds` is always neutral."""
    rows = []
    for post in range(posts):
        slug = ("cats", "dogs")[post % 2]
        for sign in (1, -1):
            good, bad = WORDS[slug, sign], WORDS[slug, -sign]
            direction = [0.5 + 0.5 * sign * (slug == name) for name in ("cats", "dogs", "birds")]
            rows.append(
                {
                    "prompt": f"post {post}",
                    "chosen": f"{good} {post}",
                    "rejected": f"{bad} {post}",
                    "Preference Direction": direction,
                    "Demographic Information": f"A person of {good.upper()}",
                    "User-Generated Content": [
                        {"prompt": f"other {k}", "comment": f"{good.upper()} {k}", "Preference Direction": direction}
                        for k in range(history)
                    ],
                    "Pair-wise Comparative Feedback": [
                        {
                            "prompt": f"more {k}",
                            "chosen": f"{good} {k}",
                            "rejected": f"{bad} {k}",
                            "Preference Direction": direction,
                        }
                        for k in range(history)
                    ],
                }
            )
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> EvalData:
    (folder / "data.json").write_text(json.dumps(rows))
    (folder / "space.yaml").write_text(SPACE.to_yaml())
    return EvalData(path=str(folder / "data.json"), space=str(folder / "space.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EvalData:
    return write(tmp_path_factory.mktemp("data"), rows_of(4))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models."""
    return [save_tiny(tmp_path_factory.mktemp("model"), seed) for seed in (0, 1)]


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def settings_of(names: Sequence[str], data: EvalData, cache: str, **more: Any) -> EvaluateConfig:
    given: dict[str, Any] = {"method": "ica", "batch_tokens": 20000, "dtype": "float32"} | more
    return EvaluateConfig(model=names[0], reference=names[1], data=data, cache=cache, **given)


def result(report: Report, kind: str, parts: Sequence[str] = (), **more: Any) -> Result:
    """The one result of that kind."""
    (found,) = (
        entry
        for entry in report.results
        if entry.kind == kind
        and (not parts or entry.parts == tuple(parts))
        and all(getattr(entry, name) == value for name, value in more.items())
    )
    return found


def test_models_that_share_no_prefix_are_scored_alike_and_the_report_says_so_once(
    names: list[str], data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = evaluate(settings_of(names, data, str(tmp_path / "usual"), cases=4))
    monkeypatch.setattr(scorers, "shares_prefixes", lambda _model: False)
    alone = evaluate(settings_of(names, data, str(tmp_path / "alone"), cases=4))

    assert [note for note in alone.notes if note not in usual.notes] == [scorers.ALONE]
    assert alone.notes.count(scorers.ALONE) == 1
    for ours, theirs in zip(usual.results, alone.results, strict=True):
        assert ours.metrics["margin"].value == pytest.approx(theirs.metrics["margin"].value, abs=1e-4)


def test_an_untrained_model_ties_with_itself(names: list[str], data: EvalData, cache: str) -> None:
    report = evaluate(settings_of([names[0], names[0]], data, cache))
    assert report.results
    for entry in report.results:
        for name in ("alignment", "alignment_per_token"):
            assert entry.metrics[name].value == 0.5
        assert entry.metrics["absolute"] == entry.metrics["reference_absolute"]
    # Mirrored persons: a policy that ignores the persona is right about one of two.
    assert result(report, "none").metrics["absolute"].value == 0.5
    assert all(contrast.metrics["alignment"].value == 0 for contrast in report.contrasts)
    assert report.flips[0].metrics["reversed"].value == 0.5
    assert {pole.metrics["alignment"].value for pole in report.dimensions} == {0.5}


def test_what_is_reported_is_what_plain_loops_find(names: list[str], data: EvalData, cache: str) -> None:
    report = evaluate(settings_of(names, data, cache, items=2))
    loaded = load(data, "")
    tokenizer = tiny_tokenizer()
    margins: dict[str, list[list[float]]] = {}
    for name, parts in (("all", ("ugc", "pair", "demo")), ("pair", ("pair",))):
        margins[name] = []
        for model in names:
            loaded_model = models.load_model(model, None, "float32")
            pairs = [
                (messages("ica", example.prompt, evaluation_persona(example, parts, 2, "ica", "target", None)), reply)  # type: ignore[arg-type]
                for example in loaded.examples
                for reply in (example.chosen, example.rejected)
            ]
            logp = [score(loaded_model, tokenizer, [pair], 10**6)[0] for pair in pairs]
            margins[name].append([w - b for w, b in zip(logp[::2], logp[1::2], strict=True)])
    for name, parts in (("all", ("ugc", "pair", "demo")), ("pair", ("pair",))):
        policy, reference = margins[name]
        found = result(report, "persona", parts)
        better = [p > r for p, r in zip(policy, reference, strict=True)]
        assert found.metrics["alignment"].value == pytest.approx(sum(better) / 8)
        assert found.metrics["absolute"].value == pytest.approx(sum(p > 0 for p in policy) / 8)
        assert found.metrics["reference_absolute"].value == pytest.approx(sum(r > 0 for r in reference) / 8)
        difference = [p - r for p, r in zip(policy, reference, strict=True)]
        assert found.metrics["margin"].value == pytest.approx(sum(difference) / 8, rel=1e-3)
        assert (found.cases, found.posts, found.dropped, found.shortened) == (8, 4, 0, 0)
        assert found.mean_items == (4 if name == "all" else 2)
        if name == "all":
            for pole in report.dimensions:
                rows = [k for k, e in enumerate(loaded.examples) if e.direction[pole.dimension] == pole.level]  # type: ignore[index]
                assert pole.cases == len(rows)
                assert pole.metrics["alignment"].value == pytest.approx(sum(better[k] for k in rows) / len(rows))
    assert [(pole.slug, pole.level, pole.label) for pole in report.dimensions] == [
        ("cats", 1, "Likes cats"), ("cats", -1, "No cats"), ("dogs", 1, "Likes dogs"), ("dogs", -1, "No dogs"),
    ]  # fmt: skip


def test_the_second_time_no_model_is_loaded(
    names: list[str], data: EvalData, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: list[tuple[str, int, int]] = []
    first = evaluate(settings_of(names, data, cache), lambda *step: progress.append(step))
    assert {what for what, _, _ in progress} == {"prompts", "policy", "reference"}
    assert all(done == total for what, done, total in progress[-1:])

    def no_model(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load_model", no_model)
    again = evaluate(settings_of(names, data, cache))
    assert again.model_copy(update={"seconds": first.seconds}) == first


def test_adapters_bring_their_reference(names: list[str], data: EvalData, cache: str, tmp_path: Path) -> None:
    adapters = save_adapters(tmp_path / "adapters", names[0])
    given = settings_of([adapters, names[0]], data, cache, lengths=(), flip=False)
    report = evaluate(given.model_copy(update={"reference": None}))
    assert report.reference == names[0]
    assert report.results == evaluate(given).results
    assert report.results[0].metrics["margin"].value != 0


def test_a_reference_must_be_named(names: list[str], data: EvalData, cache: str) -> None:
    given = settings_of(names, data, cache).model_copy(update={"reference": None})
    with pytest.raises(UsageError, match=r"adapters.*`reference`"):
        evaluate(given)


def use_oracle(monkeypatch: pytest.MonkeyPatch, names: Sequence[str], *, blind: bool = False) -> None:
    """A policy that likes replies as the prompt says that the person does; a reference without a view.

    A blind one likes the positive pole, whatever the prompt says.
    """
    tokenizer = tiny_tokenizer()

    def scores(folder: Path, key: str, load: Any, encoded: Sequence[Encoded], *_: Any) -> Scores:
        liked = []
        for entry in encoded:
            prompt, reply = (tokenizer.decode(ids) for ids in (entry.ids[: entry.prompt], entry.ids[entry.prompt :]))
            (pole,) = (pole for pole, word in WORDS.items() if word in reply)
            label = f"{'Likes' if pole[1] > 0 else 'No'} {pole[0]}"
            signs = WORDS[pole].upper(), f"Preferred reply: {WORDS[pole]}", label
            liked.append(float(pole[1] > 0 if blind else any(sign in prompt for sign in signs)))
        tokens = np.array([entry.reply for entry in encoded])
        return Scores(np.array(liked) - 9 if key == policy else np.full(len(encoded), -9.0), tokens)

    policy = model_key(names[0], None, "float32")
    monkeypatch.setattr(scorers, "cached_score", scores)


def test_ica_by_an_oracle(names: list[str], data: EvalData, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_oracle(monkeypatch, names)
    report = evaluate(settings_of(names, data, cache))
    for parts in (("ugc", "pair", "demo"), ("ugc",), ("pair",), ("demo",)):
        assert result(report, "persona", parts).metrics["alignment"].value == 1
    accuracies = {entry.items: entry.metrics["alignment"].value for entry in report.results if entry.kind == "length"}
    assert accuracies == {0: 0.5, 2: 1, 4: 1}
    assert any("8, 16 left out" in note for note in report.notes)
    assert result(report, "none").metrics["alignment"].value == 0.5
    other = result(report, "shuffled").metrics["alignment"].value
    assert other < 1
    contrasts = {contrast.kind: contrast.metrics["alignment"].value for contrast in report.contrasts}
    assert contrasts == {"shuffled": pytest.approx(1 - other), "none": 0.5}
    (flip,) = report.flips
    assert flip.metrics["reversed"].value == flip.metrics["followed"].value == 1
    assert {pole.metrics["alignment"].value for pole in report.dimensions} == {1}


def test_pba_by_an_oracle(names: list[str], data: EvalData, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_oracle(monkeypatch, names)
    report = evaluate(settings_of(names, data, cache, method="pba", directions=("target", "history")))
    assert result(report, "persona", direction="target").metrics["alignment"].value == 1
    for parts in (("ugc", "pair", "demo"), ("ugc",), ("pair",), ("demo",)):
        assert result(report, "persona", parts, direction="history").metrics["alignment"].value == 1
    lengths = {entry.items: entry.metrics["alignment"].value for entry in report.results if entry.kind == "length"}
    assert lengths == {0: 0.5, 2: 1, 4: 1}
    assert [contrast.kind for contrast in report.contrasts] == ["shuffled", "shuffled", "none", "none"]
    assert [flip.direction for flip in report.flips] == ["target", "history"]
    assert all(flip.metrics["followed"].value == 1 for flip in report.flips)


@pytest.mark.parametrize("method", ["ica", "pba"])
def test_a_policy_blind_for_personas_is_found_out(
    names: list[str], data: EvalData, cache: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    use_oracle(monkeypatch, names, blind=True)
    report = evaluate(settings_of(names, data, cache, method=method))
    assert {entry.metrics["alignment"].value for entry in report.results} == {0.5}
    assert {contrast.metrics["alignment"].value for contrast in report.contrasts} == {0}
    assert report.flips[0].metrics["reversed"].value == report.flips[0].metrics["followed"].value == 0
    assert {pole.metrics["alignment"].value for pole in report.dimensions if pole.level > 0} == {1}
    assert {pole.metrics["alignment"].value for pole in report.dimensions if pole.level < 0} == {0}


def test_cases_that_share_texts_are_distinguished(
    names: list[str], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_oracle(monkeypatch, names)
    rows = rows_of(2)
    # The same post, persona and chosen reply; a rejected reply that is no worse.
    rows.append(rows[0] | {"rejected": "purr too"})
    report = evaluate(settings_of(names, write(tmp_path, rows), cache))
    assert report.results[0].metrics["alignment"].value == pytest.approx((4 + 0.5) / 5)


def test_what_the_data_lack_is_noted(names: list[str], cache: str, tmp_path: Path) -> None:
    rows = [
        {name: row[name] for name in ("prompt", "chosen", "rejected", "Pair-wise Comparative Feedback")}
        | {"profile": "x"}
        for row in rows_of(2, history=5)
    ]
    data = write(tmp_path, rows)
    settings = settings_of(names, data, cache)
    conditions, notes = plan(settings, load(data, ""))
    assert [(condition.kind, condition.items) for condition in conditions] == [
        ("persona", 4), ("length", 0), ("length", 2), ("length", 4), ("length", 8), ("shuffled", 4), ("none", 0),
        ("flip", 4), ("flipped", 4),
    ]  # fmt: skip
    assert conditions[0].parts == ("pair",)
    assert notes == ["no example has ugc or demo", "no history is longer than 8: lengths 16 left out"]
    conditions, notes = plan(settings.model_copy(update={"method": "pba"}), load(data, ""))
    assert [condition.kind for condition in conditions] == ["persona", "shuffled", "none"]
    assert notes[-1] == "no flip: the dataset has no directions and a space"


def test_data_without_the_parts_asked_for_are_refused(names: list[str], cache: str, tmp_path: Path) -> None:
    data = write(tmp_path, [{"prompt": "p", "chosen": "c", "rejected": "r"}])
    with pytest.raises(UsageError, match="none of the persona parts"):
        evaluate(settings_of(names, data, cache))


def test_one_post_has_no_control_and_no_interval(names: list[str], cache: str, tmp_path: Path) -> None:
    report = evaluate(settings_of(names, write(tmp_path, rows_of(1)), cache))
    assert not [entry for entry in report.results if entry.kind == "shuffled"]
    assert any("share a post" in note for note in report.notes)
    assert report.results[0].metrics["alignment"].low is None


def test_what_does_not_fit_is_counted(names: list[str], cache: str, tmp_path: Path) -> None:
    rows = rows_of(3)
    rows[0]["chosen"] = "purr " * 300
    rows[2]["User-Generated Content"][2]["comment"] = "woof " * 300
    data = write(tmp_path, rows)
    main = evaluate(settings_of(names, data, cache, max_length=1200)).results[0]
    assert (main.cases, main.dropped, main.shortened) == (5, 1, 1)
    with pytest.raises(UserError, match="fits max_length 64"):
        evaluate(settings_of(names, data, cache, max_length=64))


@pytest.mark.parametrize("seed", range(20))
def test_partners_are_of_another_post_and_used_once(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    posts = numbers.integers(0, int(numbers.integers(2, 12)), int(numbers.integers(2, 40)))
    partner = partners(posts, seed)
    if 2 * np.bincount(posts).max() > len(posts):
        assert partner is None
    else:
        assert partner is not None
        assert sorted(partner) == list(range(len(posts)))
        assert (posts[partner] != posts).all()
        np.testing.assert_array_equal(partner, partners(posts, seed))


def test_partners_come_by_the_seed() -> None:
    posts = np.arange(50)
    first, second = partners(posts, 0), partners(posts, 1)
    assert first is not None
    assert second is not None
    assert (first != second).mean() > 0.8


def test_samples_are_nested_and_by_seed() -> None:
    alone = np.arange(1000)
    assert len(sample(alone, 400, 0)) == 400 and sample(alone[:5], 400, 0) == [0, 1, 2, 3, 4]
    assert {*sample(alone, 40, 0)} < {*sample(alone, 400, 0)}
    assert sample(alone, 40, 0) != sample(alone, 40, 1)


def test_mirror_images_are_sampled_together() -> None:
    pairs = np.concatenate([np.arange(100), np.arange(100)])
    taken = sample(pairs, 40, 0)
    assert len(taken) == 40 and {row % 100 for row in taken if row < 100} == {row % 100 for row in taken if row >= 100}


def test_some_cases_are_evaluated_as_if_there_were_no_others(names: list[str], cache: str, tmp_path: Path) -> None:
    rows = rows_of(4)
    data = write(tmp_path, rows)
    settings = settings_of(names, data, cache, cases=3, shuffled=False, seed=2)

    some = evaluate(settings)

    (tmp_path / "some").mkdir()
    alone = write(tmp_path / "some", [rows[row] for row in sample(np.arange(len(rows)), 3, 2)])
    expected = evaluate(settings.model_copy(update={"data": alone, "cases": None}))
    assert some.examples == 3
    assert (some.results, some.flips, some.dimensions) == (expected.results, expected.flips, expected.dimensions)


def rows_of_users(users: int = 20, pairs: int = 3) -> list[dict[str, Any]]:
    """Users and their opposites. The last pair of each is near; users have a restraint pair, their opposites do not.

    The histories of the first two users and of their opposites say nothing.
    """
    rows = []
    for user in range(users):
        slug = ("cats", "dogs")[user % 2]
        for sign, side in ((1, "a"), (-1, "b")):
            good, bad = WORDS[slug, sign], WORDS[slug, -sign]
            direction = [0.5 + 0.5 * sign * (slug == name) for name in ("cats", "dogs", "birds")]
            shown, hidden = (good, bad) if user >= 2 else ("this", "that")
            person = {
                "Preference Direction": direction,
                "Demographic Information": "A person.",
                "User-Generated Content": [{"prompt": f"other {k}", "comment": shown.upper()} for k in range(2)],
                "Pair-wise Comparative Feedback": [
                    {"prompt": f"more {k}", "chosen": shown, "rejected": hidden} for k in range(2)
                ],
                "user_id": f"0a1b2c3d-u{user:07d}-{side}",
                "user_direction": direction,
            }
            for place in range(pairs):
                kind = "near" if place == pairs - 1 else "opposite"
                post = {"prompt": f"post {user} {place}", "pair_id": f"{user} {place}", "kind": kind}
                rows.append(person | post | {"chosen": f"{good} {place}", "rejected": f"{bad} {place}"})
            if side == "a":
                post = {"prompt": f"fact {user}", "pair_id": f"{user} fact", "kind": "restraint"}
                rows.append(person | post | {"chosen": bad, "rejected": good})
    return rows


def test_users_count_the_same_and_the_worst_tenth_of_them_is_told(
    names: list[str], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_oracle(monkeypatch, names)
    report = evaluate(settings_of(names, write(tmp_path, rows_of_users()), cache))

    found = {(entry.known, entry.kind): entry for entry in report.users}
    assert [*dict.fromkeys(known for known, _ in found)] == [None, 0, 1, 2, 4]
    # 18 users with three pairs right and the plain answer wrong, their 18 opposites, and four without a history.
    whole = found[None, None]
    assert (whole.users, whole.cases) == (40, 140)
    assert whole.mean["alignment"].value == pytest.approx((18 * 0.75 + 18 * 1 + 4 * 0.5) / 40)
    assert whole.worst["alignment"].value == pytest.approx(0.5)
    assert whole.mean["alignment"].low is not None
    near, restraint = found[None, "near"], found[None, "restraint"]
    assert (near.users, near.cases) == (40, 40) and near.mean["alignment"].value == pytest.approx(0.95)
    assert (restraint.users, restraint.cases) == (20, 20) and restraint.mean["alignment"].value == pytest.approx(0.05)
    assert restraint.worst["alignment"].value == 0
    assert found[0, "opposite"].mean["alignment"].value == 0.5
    assert [found[known, "opposite"].mean["alignment"].value for known in (1, 2, 4)] == [pytest.approx(0.95)] * 3


def test_kinds_of_pairs_are_told_apart(
    names: list[str], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_oracle(monkeypatch, names)
    report = evaluate(settings_of(names, write(tmp_path, rows_of_users()), cache))

    assert {entry.kind: entry.cases for entry in report.kinds} == {"opposite": 80, "near": 40, "restraint": 20}
    accuracy = {entry.kind: entry.metrics["alignment"].value for entry in report.kinds}
    assert accuracy == pytest.approx({"opposite": 0.95, "near": 0.95, "restraint": 0.05})
    # A plain answer shows no pole, and a reversed person does not make it the worse one.
    assert sum(pole.cases for pole in report.dimensions) == 120
    assert [flip.cases for flip in report.flips] == [120]


def test_datasets_without_users_and_kinds_have_no_such_tables(names: list[str], data: EvalData, cache: str) -> None:
    report = evaluate(settings_of(names, data, cache))

    assert (report.users, report.kinds) == ((), ())
    assert "known" not in {entry.kind for entry in report.results}


def test_rows_without_a_user_beside_others_are_noted(names: list[str], cache: str, tmp_path: Path) -> None:
    rows = rows_of_users(2)
    mined = [row | {"user_id": "", "user_direction": [], "kind": "mined"} for row in rows[:2]]
    data = write(tmp_path, rows + mined)
    settings = settings_of(names, data, cache)

    _, notes = plan(settings, load(data, ""))

    assert "no figures by user: some rows have none" in notes[0]
    sampled = load(data.model_copy(update={"kinds": ("opposite", "near", "restraint")}), "")
    assert not any("by user" in note for note in plan(settings, sampled)[1])


def test_users_are_sampled_whole_and_never_their_own_control(names: list[str], cache: str, tmp_path: Path) -> None:
    loaded = load(write(tmp_path, rows_of_users()), "")

    some = loaded.take(sample(loaded.groups, 21, 0))

    assert [count for _, count in sorted(Counter(str(e.user_id)[:-2] for e in some.examples).items())] == [7, 7, 7]
    condition = Condition("shuffled", ("ugc",), None, 2)
    for row, example, persona in personas(condition, loaded, settings_of(names, EvalData(path=""), cache)):
        others = [other for other in loaded.examples if persona.ugc is other.ugc]
        assert others and all(loaded.groups[row] != loaded.groups[other.number] for other in others)
        assert example is loaded.examples[row]


def test_pba_by_the_user_s_whole_direction(
    names: list[str], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_oracle(monkeypatch, names)
    data = write(tmp_path, rows_of_users())
    report = evaluate(settings_of(names, data, cache, method="pba", directions=("user",)))

    assert [(entry.kind, entry.direction) for entry in report.results] == [
        ("persona", "user"), ("shuffled", "user"), ("none", None),
    ]  # fmt: skip
    assert {entry.kind: entry.metrics["alignment"].value for entry in report.kinds} == {
        "opposite": 1, "near": 1, "restraint": 0,
    }  # fmt: skip
    assert [(flip.direction, flip.metrics["followed"].value) for flip in report.flips] == [("user", 1)]
