"""Sections `card` and `publish`: the dataset card and the Hub."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from schemas.base import Record
from schemas.problems import Fits


class CardConfig(Record):
    """Facts of the dataset card that only you know."""

    title: str | None = Field(None, description="Title of the card; null: `name`.")
    description: str | None = Field(None, description="A paragraph about this dataset.")
    license: (
        Annotated[
            str,
            Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$"),
            Fits("a text of small letters, digits, '.', '+' and '-', such as 'cc-by-4.0'"),
        ]
        | None
    ) = Field(
        None, description="Licence as the Hub spells it, such as `cc-by-4.0`; null: the card says that none is stated."
    )
    languages: tuple[
        Annotated[str, Field(pattern=r"^[a-z]{2,3}$"), Fits("a code of two or three letters, such as 'en'")], ...
    ] = Field((), description="ISO 639 codes of the texts; empty: `rules.language`.")
    tags: tuple[
        Annotated[str, Field(pattern=r"^[\w.:-]+$"), Fits("a text of letters, digits, '_', '.', ':' and '-'")], ...
    ] = Field((), description="Further tags for the Hub.")


class PublishConfig(Record):
    """Publication of the finished dataset on the Hugging Face Hub.

    The token is not configured here: it comes from the environment (`HF_TOKEN`) or from `hf auth login`.
    """

    repo_id: str = Field(
        description="Dataset repository, `owner/name`, created where it does not exist. The owner is you or one of "
        "your organisations."
    )
    private: bool = Field(
        True, description="Only its owner sees the repository. An existing one must have this visibility."
    )
    revision: str = Field(
        "main", min_length=1, description="Branch to publish to, created from `main` where it does not exist."
    )
    tag: str | None = Field(None, min_length=1, description="Tag of the commit, which no other commit may have.")
    message: str | None = Field(
        None, min_length=1, description="Message of the commit; null: name, size and fingerprint."
    )

    @field_validator("repo_id")
    @classmethod
    def _is_an_id(cls, repo_id: str) -> str:
        part = r"\b[\w.-]{1,96}\b"
        if not re.fullmatch(f"{part}/{part}", repo_id, re.ASCII) or re.search(r"--|\.\.|\.git$", repo_id):
            raise ValueError(
                "not the id of a repository; expected owner/name of letters, digits, '-', '_' and '.', "
                "such as 'ann/my-data'"
            )
        return repo_id

    @field_validator("revision")
    @classmethod
    def _is_a_branch(cls, revision: str) -> str:
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ValueError("a commit cannot be published to; name a branch, such as 'main'")
        return revision
