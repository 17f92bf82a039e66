"""Filters of posts and responses by their rows; `cleaning.py` has those that need the whole thread."""

from __future__ import annotations

import re
from collections import Counter

from pipeline.reading.text import count_words, is_blank, is_placeholder
from pipeline.reading.values import UnreadableError
from schemas.config import MiningConfig


class Filters:
    """Rules that drop rows and texts, counted under the names that the manifest shows.

    `first_unreadable` holds, for `posts` and for `responses`, the number of the first unreadable row, and the reason.
    """

    def __init__(self, config: MiningConfig, counts: Counter[str]) -> None:
        self.first_unreadable: dict[str, tuple[int, str]] = {}
        self._config = config
        self._counts = counts
        # Compiled one by one: joined, their flags and groups would interfere.
        self._bots = [re.compile(pattern, re.IGNORECASE) for pattern in config.bots]

    def count(self, name: str) -> None:
        """Add one to a count."""
        self._counts[name] += 1

    def count_unreadable(self, kind: str, number: int, error: UnreadableError) -> None:
        """Count an unreadable row, or an unreadable response in it."""
        self.count(f"{kind}/read")
        self.count(f"{kind}/unreadable")
        self.first_unreadable.setdefault(kind, (number, str(error)))

    def accepts_post(self, title: str, text: str, author: str = "", is_moderator: bool = False) -> bool:
        """Count a post, and return whether it passes all rules."""
        self.count("posts/read")
        if is_placeholder(text) or is_placeholder(title):
            return self._drop("posts/deleted")
        if is_blank(title) and is_blank(text):
            return self._drop("posts/empty")
        if is_moderator:
            return self._drop("posts/moderator")
        if self._is_bot(author):
            return self._drop("posts/bot")
        if count_words(f"{title} {text}") > self._config.max_post_words:
            return self._drop("posts/too_long")
        return True

    def accepts_response(self, author: str, text: str, is_moderator: bool = False) -> bool:
        """Count a response, and return whether it passes all rules."""
        self.count("responses/read")
        if is_placeholder(text):
            return self._drop("responses/deleted")
        if is_placeholder(author):
            return self._drop("responses/deleted_account")
        if is_blank(text):
            return self._drop("responses/empty")
        if is_moderator:
            return self._drop("responses/moderator")
        if self._is_bot(author):
            return self._drop("responses/bot")
        words = count_words(text)
        if words < self._config.min_words:
            return self._drop("responses/too_short")
        if words > self._config.max_words:
            return self._drop("responses/too_long")
        return True

    def _drop(self, reason: str) -> bool:
        self.count(reason)
        return False

    def _is_bot(self, author: str) -> bool:
        return bool(author) and any(bot.search(author) for bot in self._bots)
