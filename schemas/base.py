"""The base class of all records, and the errors that users see."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """An immutable, strictly typed record: no coercion, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class UserError(Exception):
    """An error the user can fix. Shown as one line that says what is wrong and what to do."""


class UsageError(UserError):
    """An error found before any work began: a wrong file, key or folder. Exit code 2."""


class BudgetError(UserError):
    """A run that stopped before it would pass a limit of its budget; a higher limit resumes it. Exit code 3."""
