"""The launcher's program: what each parameter does, what is refused, and that nobody waits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, SetupOptions, WorkerOptions

from deploy import launch
from deploy.parameters import BuildParameters, Parameters
from pipeline.build import Submission
from pipeline.io import storage
from pipeline.io.storage import AnyPath
from pipeline.runtime.runners import Runner
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig
from tests import ROOT
from tests.forks import Fork
from tests.object_stores import GcsStore

IMAGE = "us-central1-docker.pkg.dev/some-project/everyuser/everyuser:1"

OURS = {
    "config": "gs://bucket/my.yaml",
    "output": "gs://bucket/out/my",
    "overrides": "pairs=24 'generation={model: dummy, stop: [a, b]}'",
    "sdk_container_image": IMAGE,
    "disk_size_gb": "300",
}
BEAMS = {
    "machine_type": "g2-standard-12",
    "num_workers": "2",
    "max_num_workers": "9",
    "number_of_worker_harness_threads": "5",
    "experiments": "one,two",
    "dataflow_service_options": "enable_prime,block_project_ssh_keys",
}
BY_THE_LAUNCHER = [
    "--runner=DataflowRunner",
    "--project=some-project",
    "--job_name=my-build",
    "--region=us-central1",
    "--template_location=gs://bucket/staging/template_launches/1/job_object",
    "--staging_location=gs://bucket/staging",
    "--temp_location=gs://bucket/tmp",
]
YAML = """
pairs: 60
shard_pairs: 16
attempts: 1
generation: {model: dummy}
engine: {kind: dummy}
history: {ugc: 1, pair: 1, min_support: 0}
splits: {train: 0.6, validation: 0.2, test: 0.2}
"""


def arguments(**given: str) -> list[str]:
    return [f"--{name}={value}" for name, value in given.items()]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnyPath:
    """Return a stand-in for `gs://bucket`: a place in this process's memory, which is no local folder either."""
    parse, place = storage.parse, f"memory:/{tmp_path}"
    monkeypatch.setattr(storage, "parse", lambda name: parse(name.replace("gs://bucket", place)))
    storage.write_text(parse(f"{place}/my.yaml"), YAML)
    return parse(place)


def configured(**changes: str) -> BuildConfig:
    parameters, _ = launch.parse(arguments(**{"config": OURS["config"], "output": OURS["output"]} | changes))
    return launch.configuration(parameters)


def test_the_examples_here_have_every_parameter() -> None:
    assert OURS.keys() == BuildParameters.model_fields.keys()
    assert OURS.keys() | BEAMS.keys() == Parameters.model_fields.keys()


def test_parameters_are_told_from_what_goes_to_beam() -> None:
    parameters, beam_args = launch.parse([*arguments(**OURS, **BEAMS), *BY_THE_LAUNCHER, "--no_use_public_ips"])

    assert parameters.model_dump() == OURS | BEAMS
    assert beam_args == [*arguments(**BEAMS), *BY_THE_LAUNCHER, "--no_use_public_ips"]


def test_an_option_that_comes_twice_reaches_beam_twice() -> None:
    _, beam_args = launch.parse([*arguments(**OURS), "--experiments=ours", "--experiments=launcher"])

    assert beam_args == ["--experiments=ours", "--experiments=launcher"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "gs://bucket/out"}, "parameters: 'config' is required"),
        (
            {"config": "my.yaml", "output": "gs://bucket/out"},
            "'config' is the text \"my.yaml\"; expected a YAML file in a bucket, such as 'gs://",
        ),
        (OURS | {"disk_size_gb": "much"}, "'disk_size_gb' is the text \"much\"; expected a whole number of at least 1"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        launch.parse(arguments(**given))


def test_overrides_are_quoted_as_in_a_shell(bucket: AnyPath) -> None:
    config = configured(overrides=OURS["overrides"], sdk_container_image=IMAGE)

    assert (config.pairs, config.generation.stop) == (24, ("a", "b"))


def test_image_and_disk_are_those_of_the_parameters_first(bucket: AnyPath) -> None:
    in_the_file = "workers={image: other, disk_gb: 100}"

    given = configured(overrides=f"'{in_the_file}'", sdk_container_image=IMAGE, disk_size_gb="300").workers
    not_given = configured(overrides=f"'{in_the_file}'").workers

    assert (given.image, given.disk_gb) == (IMAGE, 300)
    assert (not_given.image, not_given.disk_gb) == ("other", 100)


def test_a_disk_that_nobody_names_is_large_enough_for_the_image(bucket: AnyPath) -> None:
    assert configured(sdk_container_image=IMAGE).workers.disk_gb == launch.DISK_GB


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "sdk_container_image: name the template's image"),
        ({"config": "gs://bucket/other.yaml"}, r"other\.yaml: no such file"),
        ({"overrides": "name='a"}, "overrides: No closing quotation: name='a"),
        ({"overrides": "pears=1"}, r"unknown key 'pears' \(by --set\); did you mean 'pairs'"),
    ],
)
def test_a_wrong_configuration_is_refused(bucket: AnyPath, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configured(**changes)


def test_every_parameter_reaches_the_job(bucket: AnyPath) -> None:
    pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient", reason="apache-beam[gcp] is missing")
    parameters, beam_args = launch.parse([*arguments(**OURS, **BEAMS), *BY_THE_LAUNCHER])

    options = Runner(launch.configuration(parameters), bucket / "out", beam_args).options

    workers = options.view_as(WorkerOptions)
    debug, cloud = options.view_as(DebugOptions), options.view_as(GoogleCloudOptions)
    assert (workers.sdk_container_image, workers.disk_size_gb) == (IMAGE, 300)
    assert (workers.machine_type, workers.num_workers, workers.max_num_workers) == ("g2-standard-12", 2, 9)
    assert debug.number_of_worker_harness_threads == 5
    assert {"one", "two"} <= {*debug.experiments}
    assert {"enable_prime", "block_project_ssh_keys"} <= {*cloud.dataflow_service_options}
    assert cloud.template_location.endswith("/job_object")
    assert options.view_as(SetupOptions).sdk_location == "container"


def test_the_build_is_handed_over_once(bucket: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[BuildConfig, AnyPath, Sequence[str]]] = []

    def hand_over(*handed: Any) -> Submission:
        calls.append(handed)
        return Submission("job", is_new=True)

    monkeypatch.setattr(launch, "submit", hand_over)

    launch.launch([*arguments(**OURS, **BEAMS), *BY_THE_LAUNCHER])

    ((config, output, beam_args),) = calls
    assert config.pairs == 24
    assert output == bucket / "out" / "my"
    assert beam_args == [*arguments(**BEAMS), *BY_THE_LAUNCHER]


def test_nobody_waits_for_the_job(bucket: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = pytest.importorskip("apache_beam.runners.dataflow.dataflow_runner", reason="apache-beam[gcp] is missing")

    def wait(*_: Any, **__: Any) -> None:
        raise AssertionError("somebody waits")

    monkeypatch.setattr(runner.DataflowPipelineResult, "wait_until_finish", wait)
    without_template = [argument for argument in BY_THE_LAUNCHER if "template" not in argument]

    launch.launch([*arguments(**OURS, **BEAMS), *without_template, "--dry_run=True"])

    names = storage.list_names(bucket / "out" / "my")
    assert "manifest.json" in names
    assert "data" not in names


def test_an_unknown_option_is_refused(bucket: AnyPath) -> None:
    with pytest.raises(UsageError, match="Beam has no option '--speed'"):
        launch.launch([*arguments(**OURS), "--speed=2"])


@pytest.mark.parametrize(("error", "code"), [(UsageError("wrong key"), 2), (UserError("no access"), 1)])
def test_an_error_is_one_line_and_an_exit_code(
    bucket: AnyPath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: UserError, code: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(launch, "submit", fail)
    monkeypatch.setattr(sys, "argv", ["launch.py", *arguments(**OURS)])

    with pytest.raises(SystemExit) as ended:
        launch.main()

    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_as_a_program_it_builds_from_a_bucket_into_a_bucket(tmp_path: Path) -> None:
    """With the local runner, which knows no detached jobs, in place of Dataflow."""
    with GcsStore() as store:
        environment = os.environ | store.environment
        put = "import sys; from pipeline.io import storage; storage.write_text(storage.parse(sys.argv[1]), sys.argv[2])"
        get = (
            "import sys; from pipeline.io import storage; "
            "print(storage.read_bytes(storage.parse(sys.argv[1])).decode())"
        )

        def run(*command: str) -> tuple[int, str, str]:
            process = Fork(*command, env=environment, cwd=tmp_path)
            out, err = process.communicate()
            return process.wait(), out, err

        assert run("-c", put, f"{store.url}/my.yaml", YAML)[0] == 0
        places = {"config": f"{store.url}/my.yaml", "output": f"{store.url}/out/my"}
        program = str(ROOT / "deploy" / "launch.py")
        refused = run(program, *arguments(**OURS | places | {"config": f"{store.url}/no.yaml"}))
        done = run(program, *arguments(**OURS | places))
        manifest = json.loads(run("-c", get, f"{store.url}/out/my/manifest.json")[1])

    assert (refused[0], refused[2].splitlines()[-1]) == (2, f"error: {store.url}/no.yaml: no such file")
    assert done[0] == 0, done[2]
    assert manifest["status"] == "complete"
