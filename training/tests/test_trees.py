from __future__ import annotations

import numpy as np

from everyuser_train.score import Encoded
from everyuser_train.trees import Tree, group, grow


def sequences(*texts: str) -> list[Encoded]:
    """One token a letter; `|` ends the prompt."""
    return [
        Encoded(np.array([ord(letter) for letter in text.replace("|", "")], dtype=np.int32), text.index("|"))
        for text in texts
    ]


def seen(tree: Tree, place: int) -> str:
    """What the token at `place` sees, in the order of positions."""
    places = np.flatnonzero(tree.visible[place])
    return "".join(chr(tree.ids[k]) for k in places[np.argsort(tree.positions[places])])


def test_each_token_is_there_once_and_sees_what_precedes_it_in_its_sequence() -> None:
    entries = sequences("abc|de", "abc|xy", "abd|dz")
    tree = grow(entries, [0, 1, 2])
    assert sorted(seen(tree, place) for place in range(len(tree.ids))) == [
        "a",
        "ab",
        "abc",
        "abcd",
        "abcx",
        "abd",
        "abdd",
    ]
    assert all(tree.positions[place] == len(seen(tree, place)) - 1 for place in range(len(tree.ids)))


def test_each_token_of_a_reply_is_predicted_by_what_precedes_it() -> None:
    entries = sequences("abc|de", "abc|xy", "abd|dz")
    tree = grow(entries, [0, 1, 2])
    predicted = [
        (int(owner), seen(tree, place), chr(target))
        for owner, place, target in zip(tree.owners, tree.predictors, tree.targets, strict=True)
    ]
    assert predicted == [
        (0, "abc", "d"), (0, "abcd", "e"), (1, "abc", "x"), (1, "abcx", "y"), (2, "abd", "d"), (2, "abdd", "z"),
    ]  # fmt: skip
    assert sorted(set(tree.predictors)) == [*range(len(tree.ids) - tree.kept, len(tree.ids))]


def test_a_reply_that_begins_another_or_equals_it() -> None:
    tree = grow(sequences("ab|c", "ab|c", "ab|cd"), [0, 1, 2])
    assert len(tree.ids) == 3
    assert [(int(owner), chr(target)) for owner, target in zip(tree.owners, tree.targets, strict=True)] == [
        (0, "c"), (1, "c"), (2, "c"), (2, "d"),
    ]  # fmt: skip


def test_sequences_that_begin_alike_share_a_tree_whatever_their_order() -> None:
    entries = sequences("abcdef|g", "zzzzzz|z", "abcdef|h", "abcdeq|i")
    groups = group(entries, longest=100, worth=10)
    assert [(each.members, each.size) for each in groups] == [([0, 2, 3], 7), ([1], 6)]
    for each in groups:
        assert len(grow(entries, each.members).ids) == each.size


def test_sharing_must_be_worth_its_attention_and_within_the_longest() -> None:
    entries = sequences("abcdef|g", "abcdef|hijklmn")
    for longest, worth, trees in ((100, 10, 2), (100, 15, 1), (11, 15, 2), (100, 0, 2)):
        assert len(group(entries, longest, worth)) == trees


def test_tokens_are_ordered_by_number() -> None:
    # By the bytes of a little-endian machine, 256 would be before 1 and part its neighbours.
    entries = [Encoded(np.array([7] * 9 + [last, 3], dtype=np.int32), 10) for last in (1, 256, 1)]
    assert [each.members for each in group(entries, longest=100, worth=10**6)] == [[0, 2, 1]]
