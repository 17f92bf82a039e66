"""What all modules share: the base class of records, how progress is told, the errors that users are to see."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

Progress = Callable[[str, int, int], None]
"""Is told what is under way, how much of it is done, and how much there is."""


class Record(BaseModel):
    """An immutable, strictly typed record: no coercion, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class UserError(Exception):
    """A problem that the user can mend. Its text is one line that says what is wrong and what to do."""


class UsageError(UserError):
    """Something that was wrong before any work began: a file, a key, a folder. Exit code 2."""
