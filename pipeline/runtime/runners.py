"""Beam's runner and its options for a build. The DAG does not depend on the runner.

Without options Beam is imported when the first pipeline runs, so that a build is checked and shown before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.io.storage import AnyPath, install_command, is_local, private_folder, write_errors
from pipeline.plan import BuildPlan
from pipeline.runtime.metrics import Measured
from schemas.base import BudgetError, UsageError, UserError
from schemas.config import BuildConfig, WorkersConfig

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

_DATAFLOW = "DataflowRunner"
_LONGEST_JOB = 30 * 24 * 3600
"""Seconds. A portable runner's client gives up on a job after five minutes by default, although it still runs."""


class Runner:
    """A Beam runner with options from the configuration and from the command line after `--`, which win.

    `measured` holds the metrics of all pipelines it has run. `is_in_process`: the stages run in this process. Raises
    `UsageError` for an option that Beam lacks.
    """

    def __init__(self, config: BuildConfig, output: AnyPath, beam_args: Sequence[str]) -> None:
        self.measured = Measured()
        self.log: Path | None = None
        self.is_local = self.is_in_process = True
        self.is_dataflow = False
        if beam_args:
            self._choose(config, output, beam_args)

    @cached_property
    def options(self) -> PipelineOptions:
        """Beam's options; its defaults where none were given."""
        from apache_beam.options.pipeline_options import PipelineOptions

        return PipelineOptions([])

    @cached_property
    def _runner(self) -> Any:
        """Return Beam's local runner. The plain DirectRunner may download a binary, and then behaves differently."""
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        return FnApiRunner()

    def _choose(self, config: BuildConfig, output: AnyPath, beam_args: Sequence[str]) -> None:
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners import create_runner

        # Beam's parser prints pages of usage, and ends the process.
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed):
                self.options = PipelineOptions([*beam_args])
                known = self.options.get_all_options()
                given = self.options.get_all_options(retain_unknown_options=True)
        except SystemExit as end:
            if not end.code:
                raise
            reason = printed.getvalue().strip().rpartition("error: ")[2]
            raise UsageError(f"Beam's options, after `--` on the command line: {reason}") from None
        unknown = sorted(given.keys() - known.keys())
        if unknown:
            raise UsageError(f"Beam has no option '--{unknown[0]}'; what follows `--` on the command line goes to Beam")
        name = self.options.view_as(StandardOptions).runner
        self.is_local = not name
        self.is_in_process = self.is_local and not self._has_worker_processes()
        self.is_dataflow = (name or "").rpartition(".")[2].lower() in (_DATAFLOW.lower(), "dataflow")
        if self.is_dataflow and is_local(output):
            raise UsageError(
                f"--output {output}: Dataflow's workers cannot write there; name a folder of a bucket (gs://)"
            )
        if name and not self.is_dataflow:
            self.options = PipelineOptions([f"--job_server_timeout={_LONGEST_JOB}", *beam_args])
        if self.is_dataflow:
            self.options = _for_dataflow(config, output, beam_args)
        try:
            if self.is_dataflow:
                # Without Google's packages Beam makes the runner, which fails when it submits the job.
                import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
            if name:
                self._runner = create_runner(name)
            elif not self.is_in_process:
                self._runner = self._with_workers(output)
        except (ImportError, ValueError) as error:
            extra = f"; Dataflow needs an extra: run {install_command('gcp')}" if self.is_dataflow else ""
            raise UsageError(f"--runner={name}: {' '.join(str(error).split())[:200]}{extra}") from None

    def _has_worker_processes(self) -> bool:
        """Return whether to start worker processes, and reset the option: with it Beam would start its own."""
        from apache_beam.options.pipeline_options import DirectOptions

        direct = self.options.view_as(DirectOptions)
        if direct.direct_running_mode != "multi_processing":
            return False
        direct.direct_running_mode = None
        return True

    def _with_workers(self, output: AnyPath) -> FnApiRunner:
        """Return Beam's local runner with our worker processes. They print to a log unless `--debug` is given."""
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        from pipeline.runtime import worker

        if not logging.getLogger().isEnabledFor(logging.INFO):
            key = hashlib.sha256(str(output).encode()).hexdigest()[:16]
            self.log = (output / "logs" if is_local(output) else private_folder() / key) / "workers.log"
        return FnApiRunner(worker.environment(self.log))

    def adapted(self, plan: BuildPlan) -> BuildPlan:
        """Return the plan for this runner.

        Only Dataflow uses resource hints. Elsewhere they would split the DAG into stages that serialise shards between
        them, instead of one fused stage.
        """
        if self.is_dataflow:
            return plan
        workers = plan.config.workers.model_copy(update={"accelerator": None, "memory": None})
        return dataclasses.replace(plan, config=plan.config.model_copy(update={"workers": workers}))

    def run(self, fill: Callable[..., None], *arguments: Any) -> None:
        """Run the pipeline that `fill(pipeline, *arguments)` builds, to its end. Ctrl-C cancels the job."""
        from pipeline.runtime import worker

        with worker.watched(), user_errors(not self.is_local, self.log):
            result = self._start(fill, *arguments)
            try:
                result.wait_until_finish()
            except KeyboardInterrupt:
                with contextlib.suppress(Exception):
                    result.cancel()
                raise
            # Some runners raise for a job that failed, others return a state.
            if str(result.state) not in ("DONE", "UNKNOWN", "None"):
                raise RuntimeError(f"it ended as {result.state}")
            self.measured.add(result)

    def submit(self, fill: Callable[..., None], *arguments: Any) -> str | None:
        """Submit the pipeline without waiting. Return the job's id if the runner reports one."""
        with user_errors():
            result = self._start(fill, *arguments)
        # A Flex Template's launcher makes the job itself, after this process has ended.
        return str(result.job_id()) if getattr(result, "has_job", False) else None

    def _start(self, fill: Callable[..., None], *arguments: Any) -> Any:
        if self.log:
            with write_errors(self.log):
                self.log.parent.mkdir(parents=True, exist_ok=True)
        import apache_beam as beam

        pipeline = beam.Pipeline(runner=self._runner, options=self.options)
        fill(pipeline, *arguments)
        return pipeline.run()


def _for_dataflow(config: BuildConfig, output: AnyPath, beam_args: Sequence[str]) -> PipelineOptions:
    """Return the options of Dataflow workers: one process a machine, as all its threads share one model server."""
    from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, SetupOptions, WorkerOptions

    workers: WorkersConfig = config.workers
    arguments = {
        # Dataflow runs one job of a name at a time, so two builds cannot write to one folder.
        "--job_name": f"everyuser-{hashlib.sha256(str(output).encode()).hexdigest()[:16]}",
        "--sdk_container_image": workers.image,
        "--machine_type": workers.machine_type,
        "--max_num_workers": workers.max_workers,
        "--disk_size_gb": workers.disk_gb,
        "--number_of_worker_harness_threads": workers.threads,
        # The image has this package; nothing is staged.
        "--sdk_location": "container" if workers.image else None,
    }
    chosen = [f"{name}={value}" for name, value in arguments.items() if value is not None]
    options = PipelineOptions([*chosen, *beam_args])
    if not options.view_as(WorkerOptions).sdk_container_image and not options.view_as(SetupOptions).setup_file:
        raise UsageError(
            "workers.image is missing: Dataflow's workers need this package; deploy/Dockerfile makes an image with it"
        )
    debug = options.view_as(DebugOptions)
    for experiment in ("no_use_multiple_sdk_containers", *workers.experiments):
        debug.add_experiment(experiment)
    return options


@contextlib.contextmanager
def user_errors(is_elsewhere: bool = False, log: Path | None = None) -> Iterator[None]:
    """Raise our own error again from what a runner made of it: an exception with a suffix, or a traceback as text.

    Beam has no other way: its workers report failures as text, and Ctrl-C becomes a `RuntimeError`. The tests of
    `test_worker.py` and `test_portable_builds.py` hold this for the pinned version.
    """
    try:
        yield
    except Exception as error:
        if re.match(r"KeyboardInterrupt\b", str(error)):
            raise KeyboardInterrupt from error
        text = f"{type(error).__name__}: {error}" if isinstance(error, UserError) else str(error)
        found = re.findall(r"(User|Usage|Budget)Error: (.*)", text)
        if not found and (is_elsewhere or log):
            *_, last = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            where = log or "the runner's log"
            raise UserError(
                f"the job failed: {last[:300]}; {where} says more; run the same command again, finished work is kept"
            ) from error
        if not found:
            raise
        kind, message = found[-1]
        known = {"Usage": UsageError, "Budget": BudgetError}.get(kind, UserError)
        raise known(re.sub(r" \[while running '.*", "", message)) from error
