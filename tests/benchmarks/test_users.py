"""Each promise of a build with users, broken in one way: the check says which."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.users.__main__ import check
from benchmarks.users.ledger import PROMISES
from benchmarks.users.whole import print_users
from tests import ROOT
from tests.benchmarks.small_users import DIRECTION, PAIRS, Made, Row, comment, finish, item, made, released

UGC, PAIR = "User-Generated Content", "Pair-wise Comparative Feedback"
Damage = Callable[[Made], None]
DAMAGES: list[tuple[set[str], Damage]] = []


def breaks(*promises: str) -> Callable[[Damage], Damage]:
    """Register a damage with the promises that it breaks."""

    def register(damage: Damage) -> Damage:
        DAMAGES.append(({*promises}, damage))
        return damage

    return register


def mirrored_pair(build: Made, **fields: str) -> Row:
    """Return a pair of train with two rows, and three items in its history."""
    found = [pair for pair in build.of(split="train", **fields) if pair["kind"] != "restraint"]
    return next(pair for pair in found if all(row[UGC] for row in build.rows_of(pair)))


@breaks("rows")
def replace_a_reply_in_both_rows(build: Made) -> None:
    first, second = build.rows_of(mirrored_pair(build))
    first["chosen"] = second["rejected"] = "Another one."


@breaks("complete")
def leave_a_pair_out(build: Made) -> None:
    rows = build.rows_of(mirrored_pair(build))
    build.rows = [row for row in build.rows if row not in rows]
    build.counts["examples"] -= len(rows)
    for row in build.rows:
        row["user_pairs"] -= (row["split"], row["user_id"][:-2]) == (rows[0]["split"], rows[0]["user_id"][:-2])


@breaks("counts")
def count_a_row_too_many(build: Made) -> None:
    build.counts["examples"] += 1


@breaks("counts")
def count_kinds_wrongly(build: Made) -> None:
    build.counts["kinds"]["near"] += 1


@breaks("mirror")
def mirror_a_restraint_pair(build: Made) -> None:
    pair = build.of(kind="restraint")[0]
    (row,) = build.rows_of(pair)
    parts = {
        part: [make(build.of(prompt=other["prompt"])[0], -1) for other in row[part]]
        for part, make in ((PAIR, item), (UGC, comment))
    }
    changes = {"id": f"{pair['pair_id']}-b", "user_id": f"{pair['user_id']}-b", "mirrored": True}
    portrait = f"This is {pair['user_id']} from side -1."
    directions = {"user_direction": released(pair["user_direction"], -1), "Demographic Information": portrait}
    mirrored = row | item(pair, -1) | changes | directions | parts
    finish(mirrored)
    build.rows.append(mirrored)
    build.counts["examples"] += 1


@breaks("mirror")
def leave_a_mirror_image_out(build: Made) -> None:
    build.rows.remove(build.rows_of(mirrored_pair(build))[1])
    build.counts["examples"] -= 1


@breaks("mirror")
def reorder_a_mirrored_history(build: Made) -> None:
    build.rows_of(mirrored_pair(build))[1][PAIR].reverse()


@breaks("mirror")
def give_a_mirror_image_another_quality(build: Made) -> None:
    build.rows_of(mirrored_pair(build))[1]["quality_chosen"] = 0.5


@breaks("user")
def change_a_user_between_splits(build: Made) -> None:
    user = next(p for p in build.of(split="test_seen_users") if sum(map(abs, p["user_direction"])) < 5)
    more = user["user_direction"].index(0)
    for pair in build.of(split="test_seen_users", user_id=user["user_id"]):
        pair["user_direction"] = [1 if d == more else level for d, level in enumerate(pair["user_direction"])]
    build.derive()


@breaks("part", "rows")
def take_a_dimension_from_a_user(build: Made) -> None:
    pair = build.of(split="validation")[0]
    d = next(d for d, level in enumerate(pair["direction"]) if level)
    for row in build.rows:
        if row["user_id"][:-2] == pair["user_id"]:
            row["user_direction"] = [0.5 if k == d else level for k, level in enumerate(row["user_direction"])]


@breaks("portrait")
def write_a_portrait_again(build: Made) -> None:
    build.rows[5]["Demographic Information"] = "Somebody else."


@breaks("profile")
def write_a_profile_again(build: Made) -> None:
    build.rows[5]["profile"] += ", t0 positive"


@breaks("user_pairs")
def count_a_users_pairs_wrongly(build: Made) -> None:
    for row in build.rows_of(mirrored_pair(build)):
        row["user_pairs"] += 1


@breaks("history")
def replace_a_reply_of_an_item(build: Made) -> None:
    first, second = build.rows_of(mirrored_pair(build))
    first[PAIR][0]["chosen"] = second[PAIR][0]["rejected"] = "Another one."


@breaks("history")
def replace_a_comment(build: Made) -> None:
    build.rows_of(mirrored_pair(build))[0][UGC][0]["comment"] = "Another one."


@breaks("history", "repeats")
def take_the_target_into_its_history(build: Made) -> None:
    pair = mirrored_pair(build)
    for row, side in zip(build.rows_of(pair), (1, -1), strict=True):
        row[PAIR][0] = item(pair, side)
        finish(row)


@breaks("items")
def take_a_restraint_pair_into_a_history(build: Made) -> None:
    restraint = next(
        p
        for p in build.of(split="train", kind="restraint")
        if len([q for q in build.of(split="train", user_id=p["user_id"]) if q["kind"] != "restraint"]) > 1
    )
    pair = next(q for q in build.of(split="train", user_id=restraint["user_id"]) if q["kind"] != "restraint")
    for row, side in zip(build.rows_of(pair), (1, -1), strict=True):
        row[PAIR][0] = item(restraint, side)
        finish(row)


@breaks("items")
def take_a_comment_from_a_near_pair(build: Made) -> None:
    pair, near = next(
        (pair, other)
        for pair in build.of(split="train", kind="opposite")
        for other in build.of(split="train", kind="near", user_id=pair["user_id"])
        if all(row[UGC] for row in build.rows_of(pair))
    )
    for row, side in zip(build.rows_of(pair), (1, -1), strict=True):
        turned = build.of(prompt=row[UGC][0]["prompt"])[0]
        row[PAIR] = [other for other in row[PAIR] if other["prompt"] != near["prompt"]] + [item(turned, side)]
        row[UGC] = [comment(near, side)]


@breaks("sizes")
def drop_an_item(build: Made) -> None:
    for row in build.rows_of(mirrored_pair(build)):
        row[UGC] = []
        finish(row)


@breaks("sizes")
def require_more_items(build: Made) -> None:
    build.config["users"]["min_items"] = 3


@breaks("repeats")
def repeat_a_reply(build: Made) -> None:
    pair = mirrored_pair(build)
    other = next(p for p in build.of(split="train", user_id=pair["user_id"]) if p is not pair)
    other["rejected"] = pair["rejected"]
    build.derive()


@breaks("contradiction", "history")
def turn_an_item_round(build: Made) -> None:
    pair = next(p for p in build.of(split="train", kind="opposite") if build.rows_of(p)[0]["history_support"] == 1)
    for row in build.rows_of(pair):
        for other in row[PAIR]:
            other[DIRECTION] = [1 - level for level in other[DIRECTION]]
        finish(row)


@breaks("support")
def overstate_support(build: Made) -> None:
    rows = next(rows for rows in map(build.rows_of, build.pairs) if rows[0]["history_support"] < 1)
    for row in rows:
        row["history_support"] = 1.0


@breaks("support")
def require_more_support(build: Made) -> None:
    build.config["history"]["min_support"] = 0.5


@breaks("own_posts", "repeats", "history")
def give_a_user_a_post_twice(build: Made) -> None:
    pair = mirrored_pair(build)
    other = [p for p in build.of(split="train", user_id=pair["user_id"]) if p is not pair and p["kind"] != "restraint"]
    other[0].update(prompt=pair["prompt"], post_id=pair["post_id"], topics=pair["topics"])
    other[0].update({name: pair[name] for name in ("direction", "traits", "kind")})
    build.derive()


@breaks("impersonal")
def use_a_personal_post_for_restraint(build: Made) -> None:
    build.of(split="train", kind="restraint")[0].update(prompt=build.of(split="train", kind="near")[0]["prompt"])
    build.derive()


@breaks("posts")
def share_a_post(build: Made) -> None:
    build.of(split="test", kind="near")[0].update(prompt=build.of(split="train", kind="near")[0]["prompt"])
    build.derive()


@breaks("posts")
def share_the_id_of_a_post(build: Made) -> None:
    build.of(split="test")[0].update(post_id=build.of(split="train")[0]["post_id"])
    build.derive()


@breaks("replies", "sizes")
def share_a_reply(build: Made) -> None:
    build.of(split="test", kind="near")[0].update(chosen=build.of(split="train", kind="near")[0]["rejected"])
    build.derive()


@breaks("splits")
def move_a_seen_user_to_test(build: Made) -> None:
    for rows in (build.pairs, build.rows):
        for row in rows:
            if row["split"] == "test_seen_users" and row["user_id"].startswith("f-u0000003"):
                row["split"] = "test"


@breaks("targets")
def take_the_topic_from_a_post(build: Made) -> None:
    pair = next(p for p in build.of(kind="opposite") if any(p["direction"][10:]))
    pair["topics"] = []


@breaks("targets")
def ask_for_smaller_targets(build: Made) -> None:
    build.config["sampling"]["max_active"] = 2


@breaks("near")
def flip_two_traits(build: Made) -> None:
    pair = next(p for p in build.of(kind="near") if sum(map(abs, p["traits"])) == 3)
    active = [d for d, level in enumerate(pair["traits"]) if level]
    pair["direction"] = [level * (d in active[:2]) for d, level in enumerate(pair["traits"])]
    build.derive()


@breaks("near")
def flip_all_traits(build: Made) -> None:
    pair = build.of(kind="near")[0]
    pair["traits"] = pair["direction"]
    build.config["sampling"]["min_active"] = 1


@breaks("kinds")
def configure_more_near_pairs(build: Made) -> None:
    build.config["kinds"]["near"] = 0.5


@breaks("kinds")
def configure_no_restraint_pairs(build: Made) -> None:
    build.config["kinds"]["restraint"] = 0


@breaks("active")
def give_a_user_more_dimensions(build: Made) -> None:
    user = next(p for p in build.of(split="test") if sum(map(abs, p["user_direction"])) == 5)
    more = user["user_direction"].index(0)
    for pair in build.of(user_id=user["user_id"]):
        pair["user_direction"] = [1 if d == more else level for d, level in enumerate(pair["user_direction"])]
    build.derive()


@breaks("dimensions")
def leave_a_dimension_out_of_the_configuration(build: Made) -> None:
    build.config["sampling"]["marginals"]["d0"] = {"weight": 0, "positive": 0.5}


@breaks("poles")
def configure_another_pole(build: Made) -> None:
    build.config["sampling"]["marginals"]["d0"] = {"weight": 1, "positive": 0.0}


@breaks("forbidden")
def forbid_a_combination(build: Made) -> None:
    build.config["sampling"]["forbidden"] = [{"d0": "positive", "d1": "positive"}]


def test_a_build_that_keeps_all_promises_has_no_violation(tmp_path: Path) -> None:
    ledger = check(made().write(tmp_path))

    assert ledger.broken == []
    assert all(verdict.checked for verdict in ledger.verdicts.values())


def test_a_build_without_mirrored_rows_can_be_checked(tmp_path: Path) -> None:
    build = made()
    build.config["mirror"] = False
    build.rows = [row for row in build.rows if not row["mirrored"]]
    build.counts["examples"] = len(build.rows)

    assert check(build.write(tmp_path)).broken == []


def test_mined_rows_beside_those_of_users_are_left_out(tmp_path: Path) -> None:
    build = made()
    build.config["mining"] = {"share": 0.5}
    mined: Row = {"source": "mined", "kind": "mined", "user_id": "", "user_direction": [], "user_pairs": 0}
    build.rows += [row | mined for row in build.rows]
    build.pairs += [pair | mined for pair in build.pairs]
    build.counts.update(pairs_asked=len(build.pairs), examples=len(build.rows))
    build.counts["kinds"]["mined"] = len(build.pairs) // 2

    assert check(build.write(tmp_path)).broken == []


def test_every_promise_is_broken_by_a_damage() -> None:
    assert {promise for promises, _ in DAMAGES for promise in promises} == set(PROMISES)


@pytest.mark.parametrize(("promises", "damage"), DAMAGES, ids=[damage.__name__ for _, damage in DAMAGES])
def test_a_damage_breaks_its_promise_and_no_other(promises: set[str], damage: Damage, tmp_path: Path) -> None:
    build = made()

    damage(build)

    assert {*check(build.write(tmp_path)).broken} == promises


def test_the_command_fails_and_shows_the_violation(tmp_path: Path) -> None:
    build = made()
    write_a_portrait_again(build)
    build.write(tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.users", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert f"first: {build.rows[5]['id']}" in done.stdout
    assert "1 promises broken" in done.stdout


def test_users_are_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = made()
    build.write(tmp_path)

    print_users(tmp_path, 2)

    shown = capsys.readouterr().out
    users = re.findall(r"^### (.+)$", shown, re.MULTILINE)
    # One shard a split; those that are taken lie apart.
    own = [
        pair for pair in build.pairs if (pair["split"], pair["user_id"]) in zip(("test", "train"), users, strict=True)
    ]
    assert len(own) == 2 * PAIRS
    assert all(pair[text] in shown for pair in own for text in ("prompt", "chosen", "rejected"))
    assert shown.count("*chosen:*") == len(own)
