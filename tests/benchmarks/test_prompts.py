from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from benchmarks import prompts
from tests.stub import StubServer, completion, good_text


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["prompts", "--pairs", "4", *arguments])
    prompts.main()


def write_template(folder: Path) -> str:
    folder.mkdir()
    (folder / "reply.j2").write_text(
        "{% block system %}Leaking words of the template.{% endblock %}"
        "{% block user %}{{ post.title }}{% for trait in traits %} {{ trait.hint }}{% endfor %}{% endblock %}"
    )
    return str(folder)


def test_the_figures_of_each_variant_are_those_of_its_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if "Leaking" in body["messages"][0]["content"]:
            return completion(f"Leaking words of the rain. {good_text(body)}")
        return completion("No.")

    with StubServer(answer) as stub:
        run(monkeypatch, write_template(tmp_path / "mine"), "packaged", "--url", stub.url, "--examples", "1")

    mine, packaged = capsys.readouterr().out.split("\n== ")[1:]
    assert mine.startswith(f"{tmp_path / 'mine'}: 4 of 4 accepted (100%); rejected: none")
    assert "; 4 pairs have 4 words in a row of the template's own" in mine
    assert mine.count("\n   + Leaking words") == mine.count("\n   - Leaking words") == 1
    assert packaged.startswith("packaged: 0 of 4 accepted (0%); rejected: 4 too_short")


def test_lead_ins_are_counted_in_raw_replies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return completion(f"Here is a reply:\n\n{good_text(body)}")

    with StubServer(answer) as stub:
        run(monkeypatch, "--url", stub.url)

    assert "lead-ins in 8 of 8 replies" in capsys.readouterr().out
