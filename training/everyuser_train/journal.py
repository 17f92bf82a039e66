"""A journal of answers, one JSON line each, appended on arrival: a later run asks only for the missing ones."""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from schemas.base import UserError


class Journal:
    """Answers by key, on disk. A partial last line is cut off; a second run at the same time is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another output") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"{path} is in use by another run; wait for it, or choose another output") from None
        self._answers = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def add(self, key: str, answer: Any) -> None:
        """Store an answer, a JSON value. Raises `UserError` if it cannot be written."""
        line = orjson.dumps({"key": key, "answer": answer}) + b"\n"
        size = self._file.seek(0, 2)
        try:
            if self._file.write(line) != len(line):
                self._file.truncate(size)
                raise OSError(0, "no space left")
        except OSError as error:
            raise UserError(
                f"{self._path}: {error.strerror}; free some space and run again; stored answers are kept"
            ) from None
        self._answers[key] = answer

    def _read(self) -> dict[str, Any]:
        self._file.seek(0)
        text = self._file.read()
        end = text.rfind(b"\n") + 1
        self._file.truncate(end)
        answers = {}
        for number, line in enumerate(text[:end].split(b"\n")[:-1], 1):
            try:
                entry = orjson.loads(line)
                answers[str(entry["key"])] = entry["answer"]
            except (ValueError, LookupError, TypeError):
                raise UserError(f"{self._path}: line {number} is damaged; delete that line and run again") from None
        return answers


def key_of(*parts: Any) -> str:
    """Return a hash of JSON values."""
    return hashlib.blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
