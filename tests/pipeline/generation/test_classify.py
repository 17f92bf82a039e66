from __future__ import annotations

import email.utils
import time
from typing import Any

import orjson
import pytest

from pipeline.generation.classify import Busy, Transient, classify, refusal_error
from pipeline.generation.completions import (
    AnyRequest,
    Completion,
    Failure,
    choice_head,
    decode_probabilities,
    make_choice_request,
    make_request,
)
from pipeline.generation.endpoints import Endpoint
from schemas.base import UserError
from schemas.config import GenerationConfig
from schemas.mask import Mask
from tests.stub import choice_of

BASE = "http://127.0.0.1:8000/v1"
URL = f"{BASE}/chat/completions"
CHAT = make_request(GenerationConfig(model="m"), {"user": "Which bread keeps longest?"}, (0,))
CHOICES = make_choice_request(choice_head("m", structured_outputs=True), "Rye keeps.", ("Kind?", "Young?"), b"known")
"""Two questions about one comment."""


def answer(
    status: int, payload: bytes = b"", headers: dict[str, str] | None = None, request: AnyRequest = CHAT
) -> Completion | Failure | Busy | Transient:
    return classify(request, status, headers or {}, payload, Endpoint(BASE, BASE), Mask(""))


def chat(**changes: Any) -> bytes:
    return orjson.dumps(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Rye."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 3},
        }
        | changes
    )


def text_completion(*choices: object, **changes: Any) -> bytes:
    usage = {"prompt_tokens": 400, "completion_tokens": 2}
    return orjson.dumps({"object": "text_completion", "choices": [*choices], "usage": usage} | changes)


A, B = choice_of(0, {"A": 1.0, "B": 0.0, "C": 0.0}), choice_of(1, {"A": 0.0, "B": 0.6, "C": 0.4})
"""Good answers to `CHOICES`."""


def error(message: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "BadRequestError", "code": 400}})


def test_a_chat_completion_is_read() -> None:
    assert answer(200, chat()) == Completion("Rye.", "stop", 12, 3)


def test_a_reply_cut_off_at_the_limit_keeps_its_finish_reason() -> None:
    payload = chat(choices=[{"message": {"content": "Rye, and"}, "finish_reason": "length"}])

    assert answer(200, payload) == Completion("Rye, and", "length", 12, 3)


@pytest.mark.parametrize(
    "usage", [None, {}, [1], "many", {"prompt_tokens": None}, {"prompt_tokens": -4, "completion_tokens": "many"}]
)
def test_unknown_usage_counts_as_nothing_and_loses_no_reply(usage: object) -> None:
    assert answer(200, chat(usage=usage)) == Completion("Rye.", "stop", 0, 0)


@pytest.mark.parametrize("count", [b"1e999", b"1e30", b"-12"])
def test_a_count_that_cannot_be_is_nothing(count: bytes) -> None:
    assert answer(200, chat().replace(b"12", count)) == Completion("Rye.", "stop", 0, 3)


def test_a_missing_finish_reason_beside_a_text_is_no_fault() -> None:
    payload = chat(choices=[{"message": {"content": "Rye."}, "finish_reason": None}])

    assert answer(200, payload) == Completion("Rye.", "stop", 12, 3)


def test_null_content_is_an_empty_reply() -> None:
    payload = chat(choices=[{"message": {"role": "assistant", "content": None}, "finish_reason": "stop"}])

    assert answer(200, payload) == Completion("", "stop", 12, 3)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"<html>It works!</html>",
        chat()[:-10],
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"[1, 2]",
        b'"text"',
        b"17",
        b"{}",
        chat(choices=[]),
        chat(choices=None),
        chat(choices={}),
        chat(choices=["text"]),
        chat(choices=[None]),
        chat(choices=[{"text": "Rye."}]),
        chat(choices=[{"message": None}]),
        chat(choices=[{"message": []}]),
        chat(choices=[{"message": {}}]),
        chat(choices=[{"message": {"content": ["Rye."]}, "finish_reason": "stop"}]),
        chat(choices=[{"message": {"content": {"text": "Rye."}}, "finish_reason": "stop"}]),
        chat(choices=[{"message": {"content": "Rye."}, "finish_reason": 1}]),
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    ],
)
def test_anything_else_with_status_200_is_garbled(payload: bytes) -> None:
    result = answer(200, payload)

    assert isinstance(result, Transient)
    assert result.reason == "garbled"
    assert "\n" not in result.detail


def test_a_garbled_reply_is_quoted_in_short() -> None:
    result = answer(200, b"<html>\nproxy error" + b"x" * 10_000)

    assert isinstance(result, Transient)
    assert "<html>" in result.detail
    assert len(result.detail) < 300


@pytest.mark.parametrize("status", [400, 403, 413, 422, 451])
def test_a_refused_request_is_a_failure(status: int) -> None:
    assert answer(status, error("no")) == Failure(f"http_{status}", f"HTTP {status}: no", may_pass=False)


@pytest.mark.parametrize("status", [302, 304, 404, 405, 406, 407, 410, 415, 421, 424])
def test_a_status_that_says_nothing_about_the_request_may_pass(status: int) -> None:
    assert answer(status, error("no")) == Failure(f"http_{status}", f"HTTP {status}: no", may_pass=True)


@pytest.mark.parametrize("status", [201, 202, 203, 206])
def test_a_completion_may_come_with_any_status_of_success(status: int) -> None:
    assert answer(status, chat()) == answer(200, chat())


@pytest.mark.parametrize(("status", "payload"), [(202, b'{"status": "queued"}'), (204, b""), (206, chat()[:-10])])
def test_a_success_without_a_completion_is_garbled(status: int, payload: bytes) -> None:
    result = answer(status, payload)

    assert isinstance(result, Transient)
    assert (result.reason, result.detail[:10]) == ("garbled", f"HTTP {status}, ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finish_reason": "error"}, "finish_reason error"),
        ({"finish_reason": "ERROR", "message": {}}, "finish_reason error"),
        ({"finish_reason": "error", "error": {"code": 502, "message": "provider gone"}}, "provider gone"),
        ({"error": {"code": 502, "message": "provider gone"}}, "provider gone"),
        ({"error": "provider gone"}, "provider gone"),
    ],
)
def test_a_reply_that_the_provider_broke_off_is_an_error(changes: dict[str, object], said: str) -> None:
    half = {"index": 0, "message": {"role": "assistant", "content": "Half of a"}, "finish_reason": "stop"}

    assert answer(200, chat(choices=[half | changes])) == Transient("error", f"HTTP 200 with an error: {said}")
    assert answer(200, text_completion(A, B | changes), request=CHOICES) == Transient(
        "error", f"HTTP 200 with an error: {said}"
    )
    assert answer(200, chat(choices=[half | {"error": None}])) == Completion("Half of a", "stop", 12, 3)


@pytest.mark.parametrize("status", [408, 409, 425, 500, 501, 502, 504, 520, 529, 599])
def test_a_fault_of_the_server_is_worth_another_attempt(status: int) -> None:
    assert answer(status, error("oops")) == Transient(f"http_{status}", f"HTTP {status}: oops")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for(status: int) -> None:
    assert answer(status, error("full")) == Busy(None, f"HTTP {status}: full")


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0", 0.0), ("1.5", 1.5), ("-3", 0.0), (" 2 ", 2.0)])
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert answer(429, b"", {"Retry-After": value}) == Busy(seconds, "HTTP 429: ")


def test_retry_after_as_a_date() -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)

    result = answer(503, b"", {"Retry-After": date})

    assert isinstance(result, Busy)
    assert result.seconds is not None
    assert 50 < result.seconds <= 100


def test_retry_after_as_a_date_in_the_past_is_now() -> None:
    result = answer(503, b"", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})

    assert result == Busy(0.0, "HTTP 503: ")


@pytest.mark.parametrize("value", ["", "soon", "Wed, 99 Foo 2015", "Wed, 21 Oct 2015 07:28:00 +99999999999"])
def test_retry_after_that_is_neither_is_as_good_as_none(value: str) -> None:
    assert answer(429, b"", {"Retry-After": value}) == Busy(None, "HTTP 429: ")


def test_retry_after_beyond_any_calendar_is_bounded() -> None:
    for value in ("1e300", "inf"):
        result = answer(429, b"", {"Retry-After": value})

        assert isinstance(result, Busy)
        assert result.seconds is not None
        assert result.seconds < 1e9


def test_a_refused_key_ends_the_run_and_names_the_setting() -> None:
    with pytest.raises(UserError) as caught:
        answer(401, error("invalid key"))

    assert URL in str(caught.value)
    assert "HTTP 401: invalid key" in str(caught.value)
    assert "engine.api_key_env" in str(caught.value)


def test_an_account_without_credit_ends_the_run_and_keeps_the_work() -> None:
    with pytest.raises(UserError, match=r"HTTP 402: no credit.*top up") as caught:
        answer(402, error("no credit"))

    assert "finished work is kept" in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "base"),
    [
        ("https://127.0.0.1:8443/v1/chat/completions", "https://127.0.0.1:8443/v1"),
        ("/api/v1/chat/completions/", "http://127.0.0.1:8000/api/v1"),
        ("https://other.example/login?next=1", "https://other.example/login"),
    ],
)
def test_a_redirect_ends_the_run_and_says_what_to_set(status: int, location: str, base: str) -> None:
    with pytest.raises(UserError) as caught:
        answer(status, b"", {"Location": location})

    assert f"HTTP {status}" in str(caught.value)
    assert str(caught.value).endswith(f"set engine.base_urls to {base}")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "generation.extra"),
        (401, "engine.api_key_env"),
        (402, "top up"),
        (403, "engine.api_key_env"),
        (404, "generation.model"),
        (500, "refuses even a trial request"),
    ],
)
def test_a_refusal_has_address_words_models_and_advice(status: int, words: str) -> None:
    text = str(refusal_error(Failure(f"http_{status}", f"HTTP {status}: no", may_pass=False), CHAT, URL, "'a', 'b'"))

    assert text.startswith(URL)
    assert f"HTTP {status}: no" in text
    assert ("'a', 'b'" in text) == (status in (400, 404, 500))
    assert words in text


@pytest.mark.parametrize(
    "payload",
    [error("overloaded"), b'{"error": "overloaded"}', b'{"choices": null, "error": {"message": "overloaded"}}'],
)
def test_an_error_with_status_200_is_one(payload: bytes) -> None:
    assert answer(200, payload) == Transient("error", "HTTP 200 with an error: overloaded")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (error("prompt is too long"), "prompt is too long"),
        (b'{"object": "error", "message": "prompt is too long", "code": 400}', "prompt is too long"),
        (b'{"error": "prompt is too long"}', "prompt is too long"),
        (b'{"detail": "prompt is too long"}', "prompt is too long"),
        (b"prompt is too long", "prompt is too long"),
        (b'["prompt is too long"]', "prompt is too long"),
        (b'{"error": null}', "null"),
        (b'{"error": {"message": {"text": "too long"}}}', '{"text":"too long"}'),
        (b"\xff\xfe prompt is too long", "prompt is too long"),
    ],
)
def test_detail_has_the_words_of_the_server(payload: bytes, words: str) -> None:
    result = answer(400, payload)

    assert isinstance(result, Failure)
    assert words in result.detail


@pytest.mark.parametrize(
    "payload",
    [
        error("first line\nsecond line\r\n\tthird line " + "x" * 5000),
        b"<html>\n<body>\nfirst line\nsecond line\nthird line" + b"x" * 5000,
    ],
)
def test_detail_is_one_short_line(payload: bytes) -> None:
    result = answer(500, payload)

    assert isinstance(result, Transient)
    assert len(result.detail.splitlines()) == 1
    assert "first line second line third line" in result.detail
    assert len(result.detail) < 300


# The same for many choices in one call


def test_a_text_completion_is_read_as_probabilities() -> None:
    result = answer(200, text_completion(A, B), request=CHOICES)

    assert isinstance(result, Completion)
    assert (result.finish_reason, result.prompt_tokens, result.completion_tokens) == ("stop", 400, 2)
    assert decode_probabilities(result.text).tolist() == [[255, 0, 0], [0, 153, 102]]


@pytest.mark.parametrize("excluded", [b"null", b"NaN", b"-Infinity"])
def test_an_option_that_the_server_excludes_has_no_weight(excluded: bytes) -> None:
    result = answer(200, text_completion(A, B).replace(b'"A":-9999.0', b'"A":' + excluded), request=CHOICES)

    assert isinstance(result, Completion)
    assert decode_probabilities(result.text).tolist() == [[255, 0, 0], [0, 153, 102]]


@pytest.mark.parametrize("usage", [[1], {"prompt_tokens": "many"}])
def test_unknown_usage_loses_no_choices(usage: object) -> None:
    assert isinstance(answer(200, text_completion(A, B, usage=usage), request=CHOICES), Completion)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"<html>It works!</html>",
        text_completion(A, B)[:-10],
        b"null",
        b"{}",
        b"[]",
        text_completion(),
        text_completion(choices=None),
        text_completion(choices={}),
        text_completion(choices="AB"),
        text_completion(A),
        text_completion(A, A),
        text_completion(B, B),
        text_completion(A, B, B | {"index": 2}),
        text_completion(A, B | {"index": 2}),
        text_completion(A, B | {"index": None}),
        text_completion(A | {"index": "0"}, B),
        text_completion(A, {"index": 1}),
        text_completion(A, None),
        text_completion(A, "B"),
        text_completion(A, B | {"logprobs": None, "text": None}),
        text_completion(A, B | {"logprobs": [1]}),
        text_completion(A, B | {"logprobs": {"top_logprobs": [["B", -0.1]]}}),
        text_completion(A, B | {"logprobs": {"top_logprobs": [{"B": "likely"}]}}),
        text_completion(A, B | {"logprobs": {"content": [{"token": "B", "top_logprobs": ["B"]}]}}),
        chat(),
    ],
)
def test_anything_else_for_choices_is_garbled(payload: bytes) -> None:
    result = answer(200, payload, request=CHOICES)

    assert isinstance(result, Transient)
    assert result.reason == "garbled"
    assert result.detail.startswith("HTTP 200, not a completion: ")
    assert "\n" not in result.detail


def test_a_text_completion_is_no_answer_to_a_chat() -> None:
    result = answer(200, text_completion(A, B))

    assert isinstance(result, Transient)
    assert result.reason == "garbled"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Failure("http_400", "HTTP 400: no", may_pass=False)),
        (422, Failure("http_422", "HTTP 422: no", may_pass=False)),
        (408, Transient("http_408", "HTTP 408: no")),
        (500, Transient("http_500", "HTTP 500: no")),
        (429, Busy(None, "HTTP 429: no")),
        (503, Busy(None, "HTTP 503: no")),
    ],
)
def test_a_status_means_the_same_for_choices(status: int, outcome: object) -> None:
    assert answer(status, error("no"), request=CHOICES) == outcome


@pytest.mark.parametrize("status", [401, 402])
def test_what_no_row_can_succeed_with_ends_the_run_for_choices_too(status: int) -> None:
    with pytest.raises(UserError, match=f"HTTP {status}: no"):
        answer(status, error("no"), request=CHOICES)
