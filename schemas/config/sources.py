"""Sections `seeds` and `mining.source`: where posts and threads come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.config.fields import Paths

PACKAGED = "packaged"
PACKAGED_SPACES = ("alignx", "alignx_plus")
"""Spaces that a configuration or a space file may name instead of a file."""
"""Name of the posts, or of the threads, that the package contains."""


class SeedsConfig(Record):
    """The source of the posts."""

    path: str = Field(
        PACKAGED,
        description="`packaged` (312 posts of this project), a Hub dataset `hf://owner/name`, or a file, local or at "
        "`s3://` or `gs://`. Files are `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet`; all but the last "
        "may also end in `.gz` or `.zst`.",
    )
    config: str | None = Field(None, description="Configuration name of a Hub dataset.")
    split: str = Field("train", description="Split of a Hub dataset.")
    revision: str = Field("main", description="Revision of a Hub dataset; a commit hash makes the build repeatable.")
    limit: int | None = Field(None, ge=1, description="Read at most this many posts.")
    columns: dict[Literal["id", "title", "text", "topics", "impersonal"], str] = Field(
        default_factory=dict,
        description="Columns of `id`, `title`, `text`, `topics` and `impersonal`, where their names differ by more "
        "than case. Without an `id` column posts are numbered. Different posts under one id are kept; the later ones "
        "get a hash in their id. A `text` may be a chat, whose user messages are taken. `topics` is a list, JSON of a "
        "list, or a text with commas. `impersonal` is true for a post whose answer should not depend on the person "
        "(`kinds.restraint_posts`).",
    )

    @property
    def is_hub(self) -> bool:
        """Return whether the posts are a dataset of the Hub."""
        return self.path.startswith("hf://")


class DumpSource(Record):
    """A Reddit-style dump of submissions and comments, joined on `link_id`."""

    kind: Literal["dump"]
    submissions: Paths = Field(description="Files of submissions: `id`, `title`, `selftext`, `subreddit`, `author`.")
    comments: Paths = Field(
        description="Files of comments: `id`, `link_id`, `parent_id`, `author`, `body`. Both keys take the kinds of "
        "files of `seeds.path`, and patterns such as `RC_2024-*.zst`."
    )
    replies: Literal["top_level", "all"] = Field(
        "top_level", description="`top_level`: replies to the post; `all`: replies to other replies as well."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the keys that hold paths."""
        return ("submissions", "comments")


ThreadField = Literal[
    "id", "title", "post", "topics", "author", "responses", "response_id", "response_text", "response_author"
]


class ThreadsSource(Record):
    """Threads with their responses, or a published dataset of rated responses."""

    kind: Literal["threads", "ultrafeedback", "helpsteer2", "pku_saferlhf"] = Field(
        description="`threads`: rows of `post` (or `title` and `text`) and `responses`, with or without levels. The "
        "other kinds convert that dataset's ratings to levels on the universal values, without a model."
    )
    path: Paths = Field(
        description="Files of the kinds of `seeds.path`, patterns, one `hf://owner/name`, or `packaged` (40 short "
        "threads of this project)."
    )
    columns: dict[ThreadField, str] = Field(
        default_factory=dict,
        description="Kind `threads` only: columns of the fields, where their names differ by more than case. "
        "`response_id`, `response_text` and `response_author` are inside `responses`.",
    )
    config: str | None = Field(None, description="Configuration name of a Hub dataset.")
    split: str = Field("train", description="Split of a Hub dataset.")
    revision: str = Field("main", description="Revision of a Hub dataset; a commit hash makes the build repeatable.")

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the keys that hold paths."""
        return ("path",)

    @property
    def is_hub(self) -> bool:
        """Return whether the threads are a dataset of the Hub."""
        return self.path[0].startswith("hf://")

    @model_validator(mode="after")
    def _one_dataset(self) -> ThreadsSource:
        if len(self.path) > 1 and any(path.startswith("hf://") for path in self.path):
            raise ValueError("a dataset of the Hub must be the only path, such as [hf://owner/name]")
        return self

    @model_validator(mode="after")
    def _mapped_threads(self) -> ThreadsSource:
        if self.columns and self.kind != "threads":
            raise ValueError(
                f"columns are for kind 'threads' only; the columns of '{self.kind}' are known; leave them out"
            )
        return self


MinedSource = Annotated[DumpSource | ThreadsSource, Field(discriminator="kind")]
