from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.generation import trial
from pipeline.generation.client import Client
from pipeline.generation.completions import (
    Failure,
    make_request,
)
from pipeline.generation.device import Device, find_device
from pipeline.generation.guard import ServerSpec
from pipeline.generation.server import ManagedServer, server_spec
from pipeline.generation.trial import Trials
from pipeline.runtime.progress import counters_for
from schemas.base import UserError
from schemas.config import GenerationConfig, RequestsConfig, VllmEngine
from tests.forks import python
from tests.pipeline.generation.asking import (
    PATIENCE,
    close_in_time,
    failures,
    finish,
    make_choices,
    make_requests,
    submit,
)
from tests.pipeline.generation.guards import find_guard, find_server, still_there
from tests.waiting import wait_until


def vllm_engine(**changes: Any) -> VllmEngine:
    return VllmEngine.model_validate({"device": "cpu", "start_seconds": PATIENCE} | changes)


def spec_of(engine: VllmEngine, model: str, folder: Path) -> ServerSpec:
    return server_spec(engine, model, folder / "server.log", find_device(engine))


def stub_spec(folder: Path, *arguments: str, **changes: Any) -> ServerSpec:
    """A server of this test alone, as `folder` is part of its command."""
    command = (sys.executable, "-m", "tests.stub", "--log", str(folder / "requests.log"), *arguments)
    return spec_of(vllm_engine(command=command, **changes), "stub", folder)


def script_spec(folder: Path, script: str, **changes: Any) -> ServerSpec:
    """A server that is a Python script; `folder` makes its command this test's own."""
    command = (sys.executable, "-c", script, str(folder))
    return spec_of(vllm_engine(command=command, **changes), "stub", folder)


TRIAL = make_request(GenerationConfig(model="stub"), {"user": trial.TRIAL}, ("trial",))


@contextmanager
def connected(folder: Path, spec: ServerSpec, in_flight: int = 4, retries: int = 3) -> Iterator[Client]:
    folder.mkdir(exist_ok=True)
    counts = counters_for(folder)
    config = RequestsConfig(timeout_seconds=60.0, max_retries=retries, max_wait_seconds=60.0, outage_seconds=60.0)
    client = Client(ManagedServer(spec, counts), "", Trials([TRIAL]), in_flight, config, counts)
    try:
        yield client
    finally:
        client.close()


def error_of(folder: Path, spec: ServerSpec) -> str:
    """The one line with which a build on this server ends."""
    with connected(folder, spec) as client, pytest.raises(UserError) as caught:
        finish(client, submit(client, make_requests(3), folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def seeds_asked(folder: Path) -> list[str]:
    """The log line of each request that reached a server, in all its lives: a chat's is its seed."""
    log = folder / "requests.log"
    return log.read_text().split() if log.exists() else []


# A server that works, and one that dies


def test_a_server_is_started_and_answers(tmp_path: Path) -> None:
    with connected(tmp_path, stub_spec(tmp_path)) as client:
        outcomes = finish(client, submit(client, make_requests(20), tmp_path))

    assert failures(outcomes) == []
    assert len(seeds_asked(tmp_path)) == 20
    assert counters_for(tmp_path).get("server_restarts") == 0


def test_a_server_that_dies_is_restarted_and_loses_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with connected(tmp_path, stub_spec(tmp_path, "--die-after", "25")) as client:
        outcomes = finish(client, submit(client, make_requests(40), tmp_path))

    asked = seeds_asked(tmp_path)
    assert failures(outcomes) == []
    assert len(set(asked)) == 40
    assert 40 < len(asked) <= 44  # Those in flight are sent again, and no others.
    assert counters_for(tmp_path).get("server_restarts") == 1
    assert [record.levelname for record in caplog.records if "restart 1" in record.getMessage()] == ["WARNING"]


def test_a_server_that_dies_loses_no_call_of_choices(tmp_path: Path) -> None:
    with connected(tmp_path, stub_spec(tmp_path, "--die-after", "15"), in_flight=12) as client:
        outcomes = finish(client, submit(client, make_choices(*[3] * 24), tmp_path))

    asked = seeds_asked(tmp_path)
    assert failures(outcomes) == []
    assert len(set(asked)) == 24
    assert 24 < len(asked) <= 28
    assert counters_for(tmp_path).get("server_restarts") == 1


def test_a_server_that_dies_again_and_again_loses_no_request(tmp_path: Path) -> None:
    spec = stub_spec(tmp_path, "--die-after", "4")

    with connected(tmp_path, spec, in_flight=1, retries=1) as client:
        outcomes = finish(client, submit(client, make_requests(9), tmp_path))

    assert failures(outcomes) == []
    assert counters_for(tmp_path).get("server_restarts") == 2


def test_a_request_under_which_every_server_dies_fails_alone(tmp_path: Path) -> None:
    spec = script_spec(tmp_path, POISONED, max_restarts=3)

    with connected(tmp_path, spec, in_flight=1, retries=1) as client:
        outcomes = finish(client, submit(client, make_requests(10), tmp_path))

    assert [(k, o.reason) for k, o in enumerate(outcomes) if isinstance(o, Failure)] == [(4, "server_died")]


POISONED = """
import os
from tests.stub import good, serve

async def answer(request, body):
    if body["messages"][0]["content"] == "post 4":
        os._exit(1)
    return await good(request, body)

serve(answer)
"""


def test_few_requests_share_a_server_with_one_that_killed_the_last(tmp_path: Path) -> None:
    log = tmp_path / "inside"
    spec = script_spec(tmp_path, CROWDED.format(log=log), max_restarts=3)

    with connected(tmp_path, spec, in_flight=48) as client:
        outcomes = finish(client, submit(client, make_requests(48), tmp_path))

    assert [(k, o.reason) for k, o in enumerate(outcomes) if isinstance(o, Failure)] == [(4, "server_died")]
    most: dict[str, int] = {}
    for line in log.read_text().splitlines():
        server, inside = line.split()
        most[server] = max(int(inside), most.get(server, 0))
    assert [*most.values()][:2] == [48, 16]
    assert max([*most.values()][1:]) == 16


CROWDED = """
import asyncio, os
from tests.stub import good, serve

inside = 0

async def answer(request, body):
    global inside
    inside += 1
    with open("{log}", "a") as file:
        print(os.getpid(), inside, file=file)
    await asyncio.sleep(0.3)
    if body["messages"][0]["content"] == "post 4":
        os._exit(1)
    await asyncio.sleep(0.3)
    inside -= 1
    return await good(request, body)

serve(answer)
"""


def test_a_killed_server_is_restarted(tmp_path: Path) -> None:
    with connected(tmp_path, stub_spec(tmp_path, "--delay", "0.1")) as client:
        batch = submit(client, make_requests(40), tmp_path)
        wait_until(lambda: len(seeds_asked(tmp_path)) >= 10)
        find_server(tmp_path).kill()
        outcomes = finish(client, batch)

    assert failures(outcomes) == []
    assert len(seeds_asked(tmp_path)) <= 44
    assert counters_for(tmp_path).get("server_restarts") == 1


ASKS_FOR_A_KEY = """
import os
from aiohttp import web
from tests.stub import good, serve

async def answer(request, body):
    return web.Response(status=401) if "VLLM_API_KEY" in os.environ else await good(request, body)

serve(answer, on_trial=answer)
"""


def test_a_key_for_servers_of_others_is_not_asked_of_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-of-another-server")

    with connected(tmp_path, script_spec(tmp_path, ASKS_FOR_A_KEY)) as client:
        outcomes = finish(client, submit(client, make_requests(2), tmp_path))

    assert failures(outcomes) == []


def test_a_killed_guard_is_replaced_with_a_new_server(tmp_path: Path) -> None:
    with connected(tmp_path, stub_spec(tmp_path, "--delay", "0.1")) as client:
        batch = submit(client, make_requests(40), tmp_path)
        wait_until(lambda: len(seeds_asked(tmp_path)) >= 10)
        guard, server = find_guard(tmp_path), find_server(tmp_path)
        guard.kill()
        outcomes = finish(client, batch)

        assert failures(outcomes) == []
        assert still_there(guard, server) == []
        assert find_guard(tmp_path) != guard


def test_a_server_that_dies_more_often_than_it_may_be_restarted_ends_the_run(tmp_path: Path) -> None:
    spec = stub_spec(tmp_path, "--die-after", "5", max_restarts=1)

    with (
        connected(tmp_path, spec, in_flight=1) as client,
        pytest.raises(UserError, match="the model server died too often") as caught,
    ):
        finish(client, submit(client, make_requests(20), tmp_path))

    assert str(tmp_path / "server.log") in str(caught.value)
    assert len(seeds_asked(tmp_path)) == 10


# A server that never works


def test_a_server_that_dies_at_its_start_is_told_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    spec = script_spec(tmp_path, "print('loading'); raise ValueError('no such architecture')")

    text = error_of(tmp_path, spec)

    assert text.startswith("engine vllm: the model server did not start: ")
    assert "ValueError: no such architecture" in text
    assert str(tmp_path / "server.log") in text


def test_a_server_that_does_not_answer_in_time_is_told_with_its_log(tmp_path: Path) -> None:
    spec = script_spec(tmp_path, "import time; print('loading', flush=True); time.sleep(600)", start_seconds=1.0)

    text = error_of(tmp_path, spec)

    assert "the model server did not start" in text
    assert str(tmp_path / "server.log") in text


def test_a_server_that_is_given_up_is_ended(tmp_path: Path) -> None:
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    spec = script_spec(tmp_path, script, start_seconds=2.0)

    error_of(tmp_path, spec)

    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(pid))


def test_a_build_that_is_run_again_at_once_gets_a_new_try(tmp_path: Path) -> None:
    spec = script_spec(tmp_path, WORKS_THE_SECOND_TIME)
    error_of(tmp_path, spec)

    with connected(tmp_path, spec) as client:
        outcomes = finish(client, submit(client, make_requests(5), tmp_path))

    assert failures(outcomes) == []


WORKS_THE_SECOND_TIME = """
import pathlib, sys
from tests.stub import serve

mark = pathlib.Path(sys.argv[1], "tried")
if not mark.exists():
    mark.touch()
    sys.exit("out of memory")
serve()
"""


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    command = (str(tmp_path / "no-such-program"),)
    spec = spec_of(vllm_engine(command=command), "stub", tmp_path)

    assert "no-such-program" in error_of(tmp_path, spec)


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.stub", "--log", str(tmp_path / "requests.log"))
    spec = spec_of(vllm_engine(command=command), "stub", tmp_path / "no such folder")

    assert str(tmp_path / "no such folder" / "server.log") in error_of(tmp_path, spec)


# Who shares a server, and when it ends


def test_a_server_ends_some_time_after_its_last_client_has_left(tmp_path: Path) -> None:
    with connected(tmp_path, stub_spec(tmp_path)) as client:
        finish(client, submit(client, make_requests(5), tmp_path))
        guard, server = find_guard(tmp_path), find_server(tmp_path)

    assert still_there(guard, server) == []


def test_a_child_of_a_server_ends_with_it(tmp_path: Path) -> None:
    with connected(tmp_path, script_spec(tmp_path, WITH_A_CHILD)) as client:
        finish(client, submit(client, make_requests(5), tmp_path))
        guard, server = find_guard(tmp_path), find_server(tmp_path)
        (child,) = server.children()

        server.kill()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        finish(client, submit(client, make_requests(5, start=5), tmp_path))
        (next_child,) = find_server(tmp_path).children()

    assert still_there(guard, next_child) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_of_a_server_that_spins_runs_at_a_lower_priority(tmp_path: Path) -> None:
    script = """
import os, runpy, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
for name in ("VLLM::EngineCore", "VLLM::Worker"):
    child = "import sys, time; open('/proc/self/comm', 'w').write(sys.argv[1]); print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", child, name], stdout=subprocess.PIPE)
    process.stdout.readline()
    (folder / name).write_text(str(process.pid))
sys.argv = ["stub", "--log", str(folder / "requests.log"), *sys.argv[2:]]
runpy.run_module("tests.stub", run_name="__main__")
"""
    spec = replace(script_spec(tmp_path, script), yielding="VLLM::EngineC")
    with connected(tmp_path, spec) as client:
        finish(client, submit(client, make_requests(1), tmp_path))
        pids = [int((tmp_path / f"VLLM::{name}").read_text()) for name in ("EngineCore", "Worker")]
        spinning, working = (os.getpriority(os.PRIO_PROCESS, pid) for pid in pids)

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert (spinning, working) == (min(own + 15, 19), own)


def test_a_child_of_a_server_ends_with_a_killed_guard(tmp_path: Path) -> None:
    with connected(tmp_path, script_spec(tmp_path, WITH_A_CHILD)) as client:
        finish(client, submit(client, make_requests(5), tmp_path))
        (child,) = find_server(tmp_path).children()
        try:
            find_guard(tmp_path).kill()
            finish(client, submit(client, make_requests(5, start=5), tmp_path))

            assert still_there(child) == []
        finally:
            if child.is_running():
                child.kill()


WITH_A_CHILD = """
import subprocess, sys
from tests.stub import serve

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
serve()
"""


def test_the_server_of_a_killed_client_ends(tmp_path: Path) -> None:
    spec = stub_spec(tmp_path)
    with python(CLIENT, str(tmp_path), json.dumps(vars(spec))) as build:
        assert build.stdout is not None
        assert build.stdout.readline() == "answered\n"
        process = psutil.Process(build.pid)
        guard, server = find_guard(tmp_path, process), find_server(tmp_path, process)
        build.kill()

    assert still_there(guard, server) == []


CLIENT = """
import json, sys, time
from pathlib import Path
from pipeline.generation.guard import ServerSpec
from tests.pipeline.generation.asking import finish, make_requests, submit
from tests.pipeline.generation.test_server import connected

folder, spec = Path(sys.argv[1]), json.loads(sys.argv[2])
with connected(folder, ServerSpec(**spec | {"command": tuple(spec["command"])})) as client:
    finish(client, submit(client, make_requests(5), folder))
    print("answered", flush=True)
    time.sleep(600)
"""


def test_two_clients_share_one_server(tmp_path: Path) -> None:
    spec = stub_spec(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"

    with connected(one, spec) as first, connected(two, spec) as second:
        batches = [submit(first, make_requests(20), one), submit(second, make_requests(20, start=20), two)]
        outcomes = finish(first, batches[0]) + finish(second, batches[1])
        find_server(tmp_path)  # The one there is.

    assert failures(outcomes) == []
    assert len(seeds_asked(tmp_path)) == 40


def test_a_server_stays_while_one_of_two_clients_is_there(tmp_path: Path) -> None:
    spec = stub_spec(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"

    with connected(one, spec) as first:
        finish(first, submit(first, make_requests(5), one))
        server = find_server(tmp_path)
        with connected(two, spec) as second:
            finish(second, submit(second, make_requests(5, start=5), two))
        time.sleep(6)  # Longer than a server lingers without a client.
        outcomes = finish(first, submit(first, make_requests(5, start=10), one))

        assert failures(outcomes) == []
        assert find_server(tmp_path) == server
    assert counters_for(one).get("server_restarts") == 0


def test_a_client_that_comes_soon_after_another_finds_the_server_warm(tmp_path: Path) -> None:
    spec = stub_spec(tmp_path)
    with connected(tmp_path, spec) as first:
        finish(first, submit(first, make_requests(5), tmp_path))
        server = find_server(tmp_path)

    with connected(tmp_path, spec) as second:
        finish(second, submit(second, make_requests(5, start=5), tmp_path))

        assert find_server(tmp_path) == server


def test_another_command_is_another_server(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()

    with connected(one, stub_spec(one)) as first, connected(two, stub_spec(two)) as second:
        finish(first, submit(first, make_requests(5), one))
        finish(second, submit(second, make_requests(5), two))

        assert find_server(one) != find_server(two)


def test_closing_does_not_wait_for_a_server_that_is_still_starting(tmp_path: Path) -> None:
    counts = counters_for(tmp_path)
    endpoint = ManagedServer(script_spec(tmp_path, "import time; time.sleep(600)", start_seconds=600.0), counts)
    client = Client(endpoint, "", Trials([TRIAL]), 4, RequestsConfig(), counts)
    submit(client, make_requests(5), tmp_path)
    find_server(tmp_path)

    close_in_time(client)


# The command line


def after(command: Sequence[str], option: str) -> str:
    return command[list(command).index(option) + 1]


def test_the_model_is_served_under_its_own_name_on_loopback_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    command = spec_of(vllm_engine(command=("serve",), in_flight=7), str(tmp_path), tmp_path).command

    assert command[0] == "serve"
    assert (after(command, "--host"), after(command, "--port")) == ("127.0.0.1", "{port}")
    assert (after(command, "--model"), after(command, "--served-model-name")) == (str(tmp_path), str(tmp_path))
    assert (after(command, "--max-num-seqs"), after(command, "--stream-interval")) == ("7", "8")


@pytest.mark.parametrize(("cores", "yielding"), [(1, ""), (2, "VLLM::EngineC")])
def test_the_scheduler_yields_where_the_model_has_more_than_one_core(tmp_path: Path, cores: int, yielding: str) -> None:
    spec = server_spec(vllm_engine(command=("serve",)), "m", tmp_path / "log", Device(True, cores))

    assert spec.yielding == yielding


def test_on_a_cpu_chunked_prefill_is_off(tmp_path: Path) -> None:
    spec = spec_of(vllm_engine(command=("serve",), device="cpu"), "m", tmp_path)

    assert "--no-enable-chunked-prefill" in spec.command
    assert "VLLM_CPU_KVCACHE_SPACE" in spec.environment


def test_on_a_gpu_there_are_no_arguments_for_a_cpu(tmp_path: Path) -> None:
    spec = spec_of(vllm_engine(command=("serve",), device="cuda"), "m", tmp_path)

    assert "--no-enable-chunked-prefill" not in spec.command
    assert not any("CPU" in name for name in spec.environment)


def test_two_servers_on_a_gpu_take_half_of_its_memory_each(tmp_path: Path) -> None:
    engine = vllm_engine(command=("serve",), args=("--gpu-memory-utilization", "0.6"))
    half = server_spec(engine, "stub", tmp_path / "server.log", Device(is_cpu=False, size=80).halved(1))

    # The later one counts, which is the user's.
    assert half.command[-4:] == ("--gpu-memory-utilization", "0.45", "--gpu-memory-utilization", "0.6")


def test_arguments_of_the_user_come_last_so_that_they_win(tmp_path: Path) -> None:
    engine = vllm_engine(command=("serve",), args=("--max-model-len", "8192", "--block-size", "16"))

    command = spec_of(engine, "m", tmp_path).command

    assert command[-4:] == ("--max-model-len", "8192", "--block-size", "16")


def test_limits_and_log_are_those_of_the_engine(tmp_path: Path) -> None:
    spec = spec_of(vllm_engine(command=("serve",), start_seconds=12.0, max_restarts=5), "m", tmp_path)

    assert (spec.start_seconds, spec.max_restarts, spec.log) == (12.0, 5, str(tmp_path / "server.log"))


def test_a_local_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        spec_of(vllm_engine(command=("serve",)), str(tmp_path / "nothing"), tmp_path)

    assert "generation.model" in str(caught.value)
    assert str(tmp_path / "nothing") in str(caught.value)


def test_without_vllm_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)

    with pytest.raises(UserError) as caught:
        spec_of(vllm_engine(), "m", tmp_path)

    assert "vLLM is not installed" in str(caught.value)
    assert "openai" in str(caught.value)


def test_by_default_the_server_is_that_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    command = spec_of(vllm_engine(), "m", tmp_path).command

    assert command[:3] == (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
