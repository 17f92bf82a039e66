"""What Dataflow would be given, translated without a network: resource hints, workers' options, size of the job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline import dag
from pipeline.io import storage
from pipeline.plan import BuildPlan
from pipeline.runtime.runners import Runner
from schemas.base import UsageError
from schemas.config import BuildConfig
from schemas.loader import validate

apiclient = pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient", reason="apache-beam[gcp] is missing")

CLOUD = [
    "--runner=DataflowRunner",
    "--dry_run=True",
    "--project=some-project",
    "--region=us-central1",
    "--temp_location=gs://bucket/tmp",
]
WORKERS = {
    "image": "some-region-docker.pkg.dev/some-project/everyuser/worker:1",
    "machine_type": "g2-standard-8",
    "accelerator": "type:nvidia-l4;count:1;install-nvidia-driver",
    "memory": "24GB",
    "threads": 12,
    "max_workers": 20,
    "disk_gb": 200,
    "experiments": ["some_experiment"],
}
ACCELERATOR = "beam:resources:accelerator:v1"
MEMORY = "beam:resources:min_ram_bytes:v1"
OUTPUT = storage.parse("memory://bucket/out")


def config(**keys: Any) -> BuildConfig:
    defaults = {"pairs": 4096, "generation": {"model": "gs://bucket/model"}, "workers": WORKERS}
    return validate(BuildConfig, defaults | keys, "test")


def plan_of(settings: BuildConfig) -> BuildPlan:
    threads = {"train": 3000, "validation": 200, "test": 200} if settings.mining else {}
    return BuildPlan(OUTPUT, "f" * 64, settings, threads)


def translated(settings: BuildConfig, *options: str, phase: str = "all") -> tuple[Any, Runner]:
    """The pipeline's proto, and the runner that made it; each is made once."""
    key = (settings.model_dump_json(), options, phase)
    if key not in _translated:
        _translated[key] = _translate(settings, options, phase)
    return _translated[key]


_translated: dict[tuple[str, tuple[str, ...], str], tuple[Any, Runner]] = {}


def _translate(settings: BuildConfig, options: Sequence[str], phase: str) -> tuple[Any, Runner]:
    run, plan = Runner(settings, OUTPUT, [*CLOUD, *options]), plan_of(settings)
    plan = run.adapted(plan)
    if phase == "all":
        result = run._start(dag.build_all, plan)
    else:
        result = run._start({"pairs": dag.build_pairs, "examples": dag.build_examples}[phase], plan, plan.shards())
    return result.job.proto_pipeline, run


def hints(proto: Any) -> dict[str, dict[str, bytes]]:
    """Resource hints of every step that runs our code, by its name."""
    environments = proto.components.environments
    return {
        step.unique_name: dict(environments[step.environment_id].resource_hints)
        for step in proto.components.transforms.values()
        if step.environment_id and step.spec.urn == "beam:transform:pardo:v1"
    }


MINING = {"source": {"kind": "threads", "path": ["gs://bucket/threads.jsonl"]}, "share": 0.5}
SAMPLED = {f"SamplePairs/Attempt {number}/Generate" for number in range(4)}
GENERATION = {
    "sampled": SAMPLED,
    "mined": SAMPLED | {"MinePairs/Round 0/Generate"},
    "portraits": SAMPLED | {"BuildExamples/Portray/Generate"},
}
OTHERS = {
    *(
        f"SamplePairs/{name}"
        for name in ("Open", "Attempt 0/Sample", "Attempt 0/Render", "Attempt 0/Validate", "Store")
    ),
    *(f"BuildExamples/{name}" for name in ("Assemble", "Mirror", "Validate", "Store")),
}
KEYS: dict[str, dict[str, Any]] = {"sampled": {}, "mined": {"mining": MINING}, "portraits": {"portrait": "model"}}


@pytest.mark.parametrize("kind", KEYS)
def test_the_generation_stage_alone_asks_for_accelerator_and_memory(kind: str) -> None:
    proto, _ = translated(config(**KEYS[kind]))

    found = hints(proto)
    hinted = {name for name, asked in found.items() if asked}
    assert hinted == GENERATION[kind]
    assert found.keys() - hinted >= OTHERS
    assert all(
        found[name] == {ACCELERATOR: WORKERS["accelerator"].encode(), MEMORY: b"24000000000"}  # type: ignore[attr-defined]
        for name in hinted
    )


def test_all_generation_stages_share_one_environment() -> None:
    proto, _ = translated(config(portrait="model"))

    steps = proto.components.transforms.values()
    assert len({step.environment_id for step in steps if step.unique_name.endswith("/Generate")}) == 1


@pytest.mark.parametrize(
    "engine", [{"kind": "openai", "base_urls": ["http://gpu:8000/v1"]}, {"kind": "replay", "journal": "gs://b/j"}]
)
def test_an_engine_that_is_elsewhere_needs_no_accelerator(engine: dict[str, Any]) -> None:
    proto, _ = translated(config(engine=engine))

    assert not any(hints(proto).values())


def test_other_runners_get_no_hints_as_they_would_cut_the_dag() -> None:
    settings = config()

    plan = Runner(settings, OUTPUT, []).adapted(plan_of(settings))

    assert (plan.config.workers.accelerator, plan.config.workers.memory) == (None, None)
    assert plan.config.workers.image == WORKERS["image"]


def worker_pool(proto: Any, run: Runner) -> Any:
    """The workers as the job describes them."""
    environment = apiclient.Environment(
        packages=[],
        options=run.options,
        environment_version="8",
        proto_pipeline_staged_url="gs://x",
        proto_pipeline=proto,
    )
    return environment.proto


def test_workers_are_as_configured() -> None:
    proto, run = translated(config())

    described = worker_pool(proto, run)
    pool = described.worker_pools[0]
    assert (pool.machine_type, pool.disk_size_gb, pool.num_threads_per_worker) == ("g2-standard-8", 200, 12)
    assert pool.autoscaling_settings.max_num_workers == 20
    assert {"no_use_multiple_sdk_containers", "some_experiment"} <= set(described.experiments)
    assert "use_multiple_sdk_containers" not in described.experiments
    images = {image.container_image for image in pool.sdk_harness_container_images}
    assert images == {WORKERS["image"]}


def test_options_of_the_command_line_win() -> None:
    _, run = translated(config(), "--machine_type=a2-ultragpu-1g", "--max_num_workers=3", "--experiments=another")

    options = run.options.get_all_options()
    assert (options["machine_type"], options["max_num_workers"]) == ("a2-ultragpu-1g", 3)
    assert {"another", "some_experiment", "no_use_multiple_sdk_containers"} <= set(options["experiments"])


def test_nothing_is_staged_when_the_image_has_the_package() -> None:
    _, run = translated(config())

    assert run.options.get_all_options()["sdk_location"] == "container"


def test_a_job_is_named_by_its_folder_so_that_it_runs_once_at_a_time() -> None:
    names = [
        Runner(config(), storage.parse(output), CLOUD).options.get_all_options()["job_name"]
        for output in ("memory://bucket/a", "memory://bucket/a", "memory://bucket/b")
    ]

    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("phase", ["pairs", "examples", "all"])
def test_ten_thousand_shards_make_a_job_of_less_than_a_megabyte(phase: str) -> None:
    settings = config(pairs=10_000 * 1024)
    assert len(plan_of(settings).shards()) >= 10_000

    proto, _ = translated(settings, phase=phase)

    assert proto.ByteSize() < 1_000_000


def test_shards_are_spread_before_they_are_opened() -> None:
    proto, _ = translated(config(), phase="pairs")

    names = {step.unique_name for step in proto.components.transforms.values()}
    assert any(name.startswith("Shards of sampled pairs/Spread") for name in names)


def test_workers_without_this_package_are_refused_before_they_start() -> None:
    with pytest.raises(UsageError, match=r"workers\.image is missing"):
        Runner(config(workers={}), OUTPUT, CLOUD)


def test_an_image_may_be_named_on_the_command_line() -> None:
    run = Runner(config(workers={}), OUTPUT, [*CLOUD, "--sdk_container_image=some:1"])

    assert run.options.get_all_options()["sdk_container_image"] == "some:1"


def test_a_folder_of_this_machine_is_refused(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"Dataflow's workers cannot write there; name a folder of a bucket"):
        Runner(config(), tmp_path, CLOUD)
