"""The dataset card, `README.md`. `datasets` and the Hub read its header; people read the rest.

The card of a finished build is made of the manifest; a report adds its figures. Texts of a dataset or configuration
are fenced or escaped, and never become markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.card.facts import facts_of, rule_names
from pipeline.card.recovery import kind_rows, verification_rows
from pipeline.io.manifests import CARD
from pipeline.io.storage import AnyPath, write_text
from pipeline.plan import SPLITS
from pipeline.verification.gates import gates_missed_by
from schemas.arrow import arrow_schema, card_features
from schemas.manifest import Manifest
from schemas.records import Example
from schemas.report import Figure, Report

UNKNOWN_FOLDER = "PATH_OF_THIS_FOLDER"
"""Placeholder of the build's folder in the code of the card; publishing puts the repository there."""

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGEST = "10M<n<100M"
_TAGS = ("preference", "personalization", "alignment", "dpo", "alignx", "everyuser")


def write_card(
    folder: AnyPath, manifest: Manifest, report: Report | None = None, pictures: Sequence[Figure] = ()
) -> None:
    """Write the card of a finished build into its folder.

    Args:
        folder: The build's output folder.
        manifest: The complete manifest.
        report: Adds its main figures and an example, where there is a report.
        pictures: Pictures of the report.
    """
    write_text(folder / CARD, render_card(manifest, None, report, pictures))


def render_card(
    manifest: Manifest, repo_id: str | None, report: Report | None = None, pictures: Sequence[Figure] = ()
) -> str:
    """Return the card as Markdown.

    Args:
        manifest: The manifest, complete or published.
        repo_id: Repository that the card's code loads; None for a local folder.
        report: Adds its main figures and an example, where there is a report.
        pictures: Pictures of the report.
    """
    header = yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True, width=1000)
    body = _template().render(
        name=manifest.config["card"]["title"] or manifest.name,
        description=manifest.config["card"]["description"],
        licence=manifest.config["card"]["license"],
        location=repo_id or UNKNOWN_FOLDER,
        counts=manifest.counts,
        rows=_rows_by_split(manifest),
        config=manifest.config,
        facts=facts_of(manifest),
        rules=rule_names(manifest.config["rules"]),
        columns=_column_rows(),
        fingerprint=manifest.fingerprint[:16],
        schema_version=manifest.schema_version,
        templates=manifest.parts["templates"],
        recording=manifest.recording,
        missed=gates_missed_by(manifest),
        verification=verification_rows(manifest, report),
        kinds=kind_rows(manifest, report),
        quality=[] if report is None else _quality_rows(report),
        pictures=pictures,
        # A restraint pair would have to be explained: its chosen reply is not what the person would write.
        shown=next((row for row in report.shown if row.kind != "restraint"), None) if report else None,
    )
    return f"---\n{header}---\n{body.strip()}\n"


def _header(manifest: Manifest) -> dict[str, Any]:
    """Return the YAML header.

    `datasets` caches loaded data under a hash of the header. Without the sizes, it would return the rows of an earlier
    build in a folder of the same name. A split without rows would make the dataset unreadable.
    """
    rows = _rows_by_split(manifest)
    size = {split: sum(file.bytes for file in manifest.files if _split_of(file.path) == split) for split in rows}
    settings, language = manifest.config["card"], manifest.config["rules"]["language"]
    languages = settings["languages"] or ([language] if language else [])
    header: dict[str, Any] = {"pretty_name": settings["title"] or manifest.name}
    header |= {"license": settings["license"]} if settings["license"] else {}
    header |= {"language": list(languages)} if languages else {}
    header |= {
        "size_categories": [_size_category(sum(rows.values()))],
        "task_categories": ["text-generation"],
        "tags": [*_TAGS, *(tag for tag in settings["tags"] if tag not in _TAGS)],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
        "dataset_info": {
            "config_name": "default",
            "features": card_features(arrow_schema(Example)),
            "splits": [
                {"name": split, "num_bytes": size[split], "num_examples": count} for split, count in rows.items()
            ],
            "download_size": sum(size.values()),
            "dataset_size": sum(size.values()),
        },
    }
    return header


def _rows_by_split(manifest: Manifest) -> dict[str, int]:
    """Return the rows of each split that has any."""
    rows = {split: sum(file.rows for file in manifest.files if _split_of(file.path) == split) for split in SPLITS}
    return {split: count for split, count in rows.items() if count}


def _split_of(path: str) -> str:
    return Path(path).name.partition("-")[0]


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), _LARGEST)


def _column_rows() -> list[tuple[str, str, str]]:
    """Return name, type and meaning of each column."""
    types = {field.name: field.type for field in arrow_schema(Example)}
    names = [(field.alias or name, field.description or "") for name, field in Example.model_fields.items()]
    return [(name, _readable_type(str(types[name])), meaning) for name, meaning in names]


def _readable_type(arrow: str) -> str:
    """Return an Arrow type in readable form."""
    return arrow.replace(" not null", "").replace("element: ", "").replace("double", "float64")


def _quality_rows(report: Report) -> list[tuple[str, str, str]]:
    """Return the report's main figures: name, value, and wanted value."""
    lengths, twice, history, copies = report.lengths, report.duplicates, report.history, report.copies
    examples = max(report.examples, 1)
    rows = [
        (
            "Length predicts the chosen reply",
            f"AUC {lengths.length_auc:.3f}; {lengths.longer_chosen_unmirrored:.3f} before mirroring",
            "0.5 (no bias)",
        ),
        ("Replies in two splits", f"{twice.exact_across}", "0"),
        (
            "Near-duplicates across splits",
            f"{twice.near_across} of {twice.near_sampled} replies (Jaccard {twice.near_threshold:g} or more)",
            "0",
        ),
        ("Posts in two splits", f"{twice.posts_across}", "0"),
        ("Histories that contradict the target", f"{history.contradicting}", "0"),
        ("Mean support of the target by the history", f"{history.support.mean:.2f}", "high"),
        ("Replies that contain a label of the direction", f"{100 * copies.label:.2f} %", "low"),
        ("Replies that copy from the portrait", f"{100 * copies.portrait:.2f} %", "low"),
        (
            "Distinct 1-, 2-, 3-grams of replies",
            ", ".join(f"{share:.3f}" for share in report.diversity.distinct),
            "high",
        ),
        ("Distinct directions", f"{report.diversity.distinct_directions} in {report.examples} rows", "many"),
        (
            "Rows with each active dimension",
            f"{_fewest_active(report) / examples:.3f} to {_most_active(report) / examples:.3f}",
            "even, unless configured otherwise",
        ),
    ]
    if report.diversity.self_bleu is not None:
        rows.insert(-2, ("Self-BLEU of replies", f"{report.diversity.self_bleu:.3f}", "low"))
    for benchmark in report.contamination:
        overlaps = f"{benchmark.posts} posts, {benchmark.replies} rows by a reply ({benchmark.words}-grams)"
        rows.append((f"Overlap with {Path(benchmark.file).name}", overlaps, "0"))
    return rows


def _active_counts(report: Report) -> list[int]:
    active = [dimension.positive + dimension.negative for dimension in report.dimensions]
    return [count for count in active if count]


def _fewest_active(report: Report) -> int:
    return min(_active_counts(report), default=0)


def _most_active(report: Report) -> int:
    return max(_active_counts(report), default=0)


_UNPRINTED = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""Control characters, line separators and marks of direction, as a class of a pattern."""


def _escape_inline(value: object) -> str:
    """Return a value as text for a line or a table's cell, without markup and line breaks."""
    text = re.sub(f"[{_UNPRINTED}]+", " ", str(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|!~$])", r"\\\1", text)


def _escape_code(value: object) -> str:
    """Return a value as inline code. Backquotes are removed, since code has no escapes."""
    return "`" + re.sub(f"[{_UNPRINTED}`|]+", " ", str(value)) + "`"


def _fence(text: str) -> str:
    """Return a text as a code block whose fence is longer than any in the text."""
    clean = re.sub(rf"(?![\n\t])[{_UNPRINTED}]", "\ufffd", text)
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{clean}\n{fence}"


@cache
def _template() -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.PackageLoader("pipeline.card", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown; the filters below escape.
    )
    environment.filters |= {"inline": _escape_inline, "code": _escape_code, "fenced": _fence, "json": json.dumps}
    return environment.get_template("card.md.j2")
