from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from pipeline.io import storage
from pipeline.plan import BuildPlan
from pipeline.runtime.runners import Runner, user_errors
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig
from schemas.loader import validate

REMOTE = """Pipeline job-1 failed in state FAILED: bundle inst002 failed:Traceback (most recent call last):
  File "worker.py", line 1, in process
{last}
"""


def config(**keys: Any) -> BuildConfig:
    return validate(BuildConfig, {"pairs": 8, **keys}, "test")


def test_a_job_that_failed_elsewhere_is_told_in_a_line_with_its_cause() -> None:
    with pytest.raises(UserError) as caught, user_errors(is_elsewhere=True):
        raise RuntimeError(REMOTE.format(last="RuntimeError: the connection to a worker process was lost"))

    assert str(caught.value).startswith("the job failed: RuntimeError: the connection to a worker process was lost; ")
    assert "run the same command again" in str(caught.value)


def test_our_own_error_is_found_in_the_text_of_a_job_elsewhere() -> None:
    with pytest.raises(UsageError, match=r"^seeds are missing$"), user_errors(is_elsewhere=True):
        raise RuntimeError(
            REMOTE.format(last="schemas.base.UsageError: seeds are missing [while running 'Open-ptransform']")
        )


def test_an_error_of_this_process_that_is_not_ours_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), user_errors():
        raise ZeroDivisionError


def test_an_interrupt_that_beam_has_wrapped_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), user_errors():
        raise RuntimeError("KeyboardInterrupt in a worker")


def test_a_job_that_raises_is_told_and_counts_for_nothing(tmp_path: Path) -> None:
    run = Runner(config(), tmp_path, [])

    def fail(value: int) -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match=r"^the disk is full$"):
        run.run(lambda pipeline: pipeline | beam.Create([1]) | beam.Map(fail))

    assert not run.measured.counts


class Job:
    """A job elsewhere, which is stopped while it is waited for."""

    state = "RUNNING"
    is_cancelled = False

    def wait_until_finish(self) -> None:
        raise KeyboardInterrupt

    def cancel(self) -> None:
        self.is_cancelled = True


def test_ctrl_c_cancels_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, job = Runner(config(), tmp_path, []), Job()
    monkeypatch.setattr(run, "_start", lambda fill: job)

    with pytest.raises(KeyboardInterrupt):
        run.run(lambda pipeline: None)

    assert job.is_cancelled


def test_a_job_that_ends_otherwise_than_done_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job()
    job.state = "CANCELLED"
    monkeypatch.setattr(Job, "wait_until_finish", lambda self: None)
    run = Runner(config(), tmp_path, ["--runner=PortableRunner", "--job_endpoint=localhost:1"])
    monkeypatch.setattr(run, "_start", lambda fill: job)

    with pytest.raises(UserError, match="the job failed: it ended as CANCELLED"):
        run.run(lambda pipeline: None)


def test_a_portable_job_may_take_longer_than_five_minutes(tmp_path: Path) -> None:
    portable = ["--runner=PortableRunner", "--job_endpoint=localhost:1"]

    longest = Runner(config(), tmp_path, portable).options.get_all_options()["job_server_timeout"]
    chosen = Runner(config(), tmp_path, [*portable, "--job_server_timeout=7"]).options.get_all_options()

    assert longest >= 7 * 24 * 3600
    assert chosen["job_server_timeout"] == 7


def test_a_wrong_value_of_a_beam_option_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"Beam's options, .*: argument --direct_num_workers: invalid int value: 'x'"):
        Runner(config(), tmp_path, ["--direct_num_workers=x"])
    assert capfd.readouterr().err == ""


def test_an_option_that_beam_does_not_know_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Beam has no option '--machine_typ'"):
        Runner(config(), tmp_path, ["--machine_typ=x"])


def test_a_plan_without_hints_is_left_as_it_is(tmp_path: Path) -> None:
    plan = BuildPlan(tmp_path, "f" * 64, config())

    adapted = Runner(config(), tmp_path, []).adapted(plan)

    assert dataclasses.asdict(adapted) == dataclasses.asdict(plan)


def test_dataflow_without_its_packages_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", None)
    output = storage.parse("memory://bucket/x")

    with pytest.raises(UsageError, match=r"^--runner=DataflowRunner: .*; Dataflow needs an extra: run `make "):
        Runner(config(workers={"image": "some:1"}), output, ["--runner=DataflowRunner", "--temp_location=gs://b/t"])


def test_without_options_beam_is_imported_by_the_first_pipeline(tmp_path: Path) -> None:
    run = Runner(config(), tmp_path, [])

    assert run.is_local and run.is_in_process
    assert "_runner" not in vars(run)
    run.run(lambda pipeline: pipeline | beam.Create([1]))
    assert "_runner" in vars(run)


@pytest.mark.parametrize(
    ("options", "is_in_process"),
    [
        ((), True),
        (("--direct_num_workers=2",), True),
        (("--direct_running_mode=multi_processing",), False),
        (("--runner=PortableRunner", "--job_endpoint=localhost:1"), False),
    ],
)
def test_stages_run_in_this_process_or_elsewhere(tmp_path: Path, options: tuple[str, ...], is_in_process: bool) -> None:
    assert Runner(config(), tmp_path, options).is_in_process == is_in_process
