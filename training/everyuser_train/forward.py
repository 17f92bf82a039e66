"""Log-probabilities of replies under a causal language model of transformers, in batches of trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from everyuser_train.masks import own_mask, takes_own_mask
from everyuser_train.score import Encoded, FloatArray, IntArray
from everyuser_train.trees import Group, Tree, group, grow
from schemas.base import UserError

_CHUNK = 2**26
"""Most logits converted to float32 at a time (256 MiB)."""

_LONGEST_TREE = 4096
"""Most tokens of a tree: the memory of its mask grows with the square (64 MiB in float32)."""


_LEAK = 1e-3
"""Largest change of a log-probability, in nats a token, that counts as rounding."""


def shares_prefixes(model: Any) -> bool:
    """Return True if `model` scores each sequence of a tree as it does alone, so that trees may be used.

    A probe guards against layers that see more than the attention mask shows, such as convolutions and recurrences: one
    branch of a small tree must not change when another branch has other tokens. Both trees have one shape, and so the
    same rounding. Where `masks.takes_own_mask` is False, no probe is needed.
    """
    if not takes_own_mask(model):
        return False
    numbers = np.random.default_rng(0)
    prefix, *branches = (
        numbers.integers(model.get_input_embeddings().num_embeddings, size=size, dtype=np.int32)
        for size in (24, 8, 24, 24)
    )
    same, *others = (Encoded(np.concatenate([prefix, branch]), len(prefix)) for branch in branches)
    try:
        first, second = (_score_trees(model, [grow([other, same], (0, 1))], share=True)[1] for other in others)
    except Exception:  # An unknown architecture may fail anywhere when it gets such a mask.
        return False
    return bool(abs(first - second) <= max(_LEAK, torch.finfo(model.dtype).eps) * same.reply)


def score_batches(
    model: Any, encoded: Sequence[Encoded], batch_tokens: int, *, share: bool
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the rows of each batch and the summed log-probabilities of its replies.

    The longest come first, so that memory runs out early or never.

    Args:
        model: A causal language model of transformers.
        encoded: Prompts and replies.
        batch_tokens: Most tokens of a batch, with padding; shared prefixes count once. A longer sequence is a batch
            alone.
        share: Compute prefixes that sequences share once, see `shares_prefixes`.

    Raises:
        UserError: A log-probability is not finite.
    """
    training = model.training
    model.eval()
    try:
        for batch in _batches(model, encoded, batch_tokens, share):
            trees = [grow(encoded, each.members) for each in batch]
            logp = _score_trees(model, trees, share)
            if not np.isfinite(logp).all():
                raise UserError(
                    f"the model gives log-probabilities that are not finite in {model.dtype}; use another `dtype`"
                )
            yield np.concatenate([tree.members for tree in trees]), logp
    finally:
        model.train(training)


def _batches(model: Any, encoded: Sequence[Encoded], batch_tokens: int, share: bool) -> Iterator[list[Group]]:
    # A layer has about 12 x hidden^2 weights with two operations each; attention takes 4 x hidden operations a pair.
    worth = 6 * model.config.get_text_config().hidden_size if share else 0
    batch: list[Group] = []
    for each in sorted(group(encoded, min(batch_tokens, _LONGEST_TREE), worth), key=lambda each: -each.size):
        # Trees differ more in size than sequences do, and padding costs as much as tokens.
        if batch and ((len(batch) + 1) * batch[0].size > batch_tokens or 4 * each.size < 3 * batch[0].size):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _score_trees(model: Any, trees: Sequence[Tree], share: bool) -> FloatArray:
    """Return the log-probabilities of the replies of a batch, tree by tree."""
    width, kept = max(len(tree.ids) for tree in trees), max(tree.kept for tree in trees)
    ids, positions = np.zeros((len(trees), width), np.int64), np.zeros((len(trees), width), np.int64)
    for row, tree in enumerate(trees):
        ids[row, width - len(tree.ids) :], positions[row, width - len(tree.ids) :] = tree.ids, tree.positions
    with torch.inference_mode():
        logits = model(
            input_ids=torch.from_numpy(ids).to(model.device),
            attention_mask=_mask(model, trees, torch.from_numpy(positions), share),
            position_ids=torch.from_numpy(positions).to(model.device),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        rows = np.repeat(np.arange(len(trees)), [len(tree.targets) for tree in trees])
        columns = np.concatenate([tree.predictors - len(tree.ids) + kept for tree in trees])
        targets = np.concatenate([tree.targets for tree in trees])
        logp = _logp(logits, rows, columns, targets)
    first = np.cumsum([0, *(len(tree.members) for tree in trees[:-1])])
    owners = np.concatenate([start + tree.owners for start, tree in zip(first, trees, strict=True)])
    sums = np.zeros(sum(len(tree.members) for tree in trees))
    np.add.at(sums, owners, logp)
    return sums


def _mask(model: Any, trees: Sequence[Tree], positions: torch.Tensor, share: bool) -> Any:
    """Return the attention mask: of trees by `own_mask`; of lone sequences (B, W)."""
    width = positions.shape[1]
    if not share:
        mask = np.zeros((len(trees), width), np.int64)
        for row, tree in enumerate(trees):
            mask[row, width - len(tree.ids) :] = 1
        return torch.from_numpy(mask).to(model.device)
    # Padding sees itself: a softmax of nothing is no number.
    visible = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        visible[row, width - len(tree.ids) :, width - len(tree.ids) :] = torch.from_numpy(tree.visible)
    return own_mask(model, visible.to(model.device), positions.to(model.device))


def _logp(logits: torch.Tensor, rows: IntArray, columns: IntArray, targets: IntArray) -> FloatArray:
    """Return the log-probabilities (M,) of tokens by logits (B, T, V) at `rows` and `columns`, in chunks of float32."""
    step = max(1, _CHUNK // logits.shape[-1])
    parts = []
    for start in range(0, len(targets), step):
        chunk = slice(start, start + step)
        these = torch.from_numpy(targets[chunk]).to(logits.device)
        parts.append(-cross_entropy(logits[rows[chunk], columns[chunk]].float(), these, reduction="none"))
    logp: FloatArray = torch.cat(parts).double().cpu().numpy()
    return logp
