"""Errors of the Hub's client, converted to one line that says what is wrong and what to do. The token never shows."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined] # exported at run time only
from huggingface_hub.utils.tqdm import disable_progress_bars

from schemas.base import UsageError, UserError

_HttpError = HfHubHTTPError.__bases__[0]
"""Base class of the errors of the client's HTTP library, which the client may change."""

_RETRY = "run the same command again, uploaded files are kept"
_MAKE_TOKEN = "create one with write access on the Hub's token page, and set HF_TOKEN or run `hf auth login`"  # noqa: S105 - words


def require_token() -> None:
    """Raise `UsageError` where there is no token, or it has characters that no header can carry.

    An HTTP library may quote a header that it cannot send in its error, which would show the token.
    """
    try:
        token = get_token()
    except Exception as error:  # What a service that exchanges tokens may raise is not documented.
        raise UsageError(f"no token for the Hub: {_redacted(str(error))}") from None
    if not token:
        raise UsageError("no token for the Hub: set HF_TOKEN, or run `hf auth login`")
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError("the token for the Hub has an invalid character, such as a space; set HF_TOKEN again")


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Convert every exception of the Hub's client to `UserError`, without its chain, which may hold headers."""
    try:
        with silence_client():
            yield
    except UserError:
        raise
    except Exception as error:  # Errors of the client's HTTP and upload libraries pass through it.
        raise to_user_error(error, repo_id) from None


@contextlib.contextmanager
def silence_client() -> Iterator[None]:
    """Hide the client's progress bars and warnings, which would break our display and show signed addresses."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", _HttpError.__module__.partition(".")[0])]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with disable_progress_bars():
                yield
    finally:
        for logger, (handlers, propagates) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagates


def to_user_error(error: Exception, repo_id: str) -> UserError:
    """Return the error of one line for an exception of the client."""
    chain = [*_cause_chain(error)]
    answer = _http_error_in(error)
    if answer is not None:
        return UserError(_describe_response(answer, repo_id))
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return UserError("the Hub's client is in offline mode; unset HF_HUB_OFFLINE")
    cause = chain[-1]
    description = f"{type(cause).__name__}: {_redacted(str(cause))}"
    if any(isinstance(cause, (_HttpError, ConnectionError, TimeoutError)) for cause in chain):
        return UserError(f"the connection to the Hub failed ({description}); {_RETRY}")
    if isinstance(cause, OSError) and cause.filename is not None:
        return UserError(f"cannot read {cause.filename}: {cause.strerror}")
    return UserError(f"{repo_id}: the Hub's client failed ({description}); {_RETRY}")


def http_status(error: Exception) -> int | None:
    """Return the HTTP status of an error; None where there was no response."""
    answer = _http_error_in(error)
    return None if answer is None else answer.response.status_code


def _describe_response(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    message = _redacted(error.server_message or "").rstrip(".")
    quoted = f"; the Hub says: {message}" if message else ""
    if status in (401, 403) and error.response.request.method == "PUT":
        # Uploads carry no token: they go to an address that the Hub has signed for a limited time.
        return f"the Hub's storage refuses the upload (HTTP {status}){quoted}; {_RETRY}"
    if status == 401:
        return f"the Hub does not accept the token; {_MAKE_TOKEN}"
    if status == 403:
        return f"{repo_id}: the Hub forbids it{quoted}; fix that, or use another token or repository"
    if status == 404:
        return f"{repo_id}: not found, or not visible to this token{quoted}; check the name"
    if status in (409, 412):
        return f"{repo_id} was changed by someone else during this run (HTTP {status}); check it, then {_RETRY}"
    if status == 429:
        return f"the Hub's rate limit is reached{quoted}; wait {_describe_wait(error)}, then {_RETRY}"
    if status >= 500:
        return f"the Hub has an error (HTTP {status}){quoted}; wait, then {_RETRY}"
    return f"{repo_id}: the Hub refuses the request (HTTP {status}){quoted}; {_RETRY}"


def _describe_wait(error: HfHubHTTPError) -> str:
    """Return the wait that the Hub asks for, in words."""
    headers = error.response.headers
    limit = parse_ratelimit_headers(headers)
    after = headers.get("retry-after", "")
    if limit is not None and limit.remaining == 0:
        return f"{limit.reset_in_seconds} seconds"
    return f"{after} seconds" if after.isdigit() else "an hour"


def _cause_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__


def _http_error_in(error: BaseException) -> HfHubHTTPError | None:
    return next((cause for cause in _cause_chain(error) if isinstance(cause, HfHubHTTPError)), None)


def _redacted(text: str) -> str:
    """Return foreign text fit for one line: without the queries of signed addresses and without the token."""
    text = re.sub(r"\?[^\s)]+=[^\s)]+", "?...", text)
    with contextlib.suppress(Exception):
        text = text.replace(get_token() or "\n", "<token>")
    return " ".join(text.split())[:200]
