from __future__ import annotations

from pathlib import Path

import pytest

from schemas.base import UsageError
from schemas.config import BuildConfig, Correlation, GenerationConfig, OpenAiEngine, ReplayEngine, VllmEngine
from schemas.loader import load_config, read_mapping
from schemas.packaged_models import MODELS, SMALL
from tests import ROOT

MINED = "mining:\n  source: {kind: threads, path: [x.jsonl]}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "build.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_pairs_alone_make_a_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "pairs: 7\n"))

    assert config == BuildConfig(pairs=7)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_loads_and_is_named_after_its_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_a_configuration_for_real_models_has_nothing_of_the_small_one() -> None:
    generation = load_config(ROOT / "configs" / "real.yaml").generation

    assert generation.model not in MODELS
    assert (generation.stop, generation.extra) == ((), {})


def test_keys_that_are_not_set_take_the_values_of_the_packaged_model(tmp_path: Path) -> None:
    path = write(tmp_path, "pairs: 1\ngeneration: {max_tokens: 50, extra: {top_k: 5}}\n")

    found = load_config(path).generation

    assert found == GenerationConfig(
        model=SMALL,
        temperature=0.7,
        top_p=0.9,
        max_tokens=50,
        stop=("\n",),
        extra={"repetition_penalty": 1.1, "top_k": 5},
    )


@pytest.mark.parametrize(
    ("keys", "name", "value"),
    [
        ("stop: []", "stop", ()),
        ("extra: {repetition_penalty: null}", "extra", {"repetition_penalty": None}),
        ("model: my-model", "stop", ()),
        ("model: my-model", "temperature", 0.8),
    ],
)
def test_the_values_of_the_packaged_model_are_not_forced(tmp_path: Path, keys: str, name: str, value: object) -> None:
    found = load_config(write(tmp_path, f"pairs: 1\ngeneration: {{{keys}}}\n")).generation

    assert getattr(found, name) == value


@pytest.mark.parametrize("model", MODELS)
def test_a_manifest_holds_the_values_that_were_taken(model: str) -> None:
    generation = GenerationConfig(model=model)

    assert GenerationConfig.model_validate_json(generation.model_dump_json()) == generation


@pytest.mark.parametrize("section", ["generation", "verification"])
@pytest.mark.parametrize("model", ["packaged:smollm3", SMALL.upper(), SMALL.capitalize()])
def test_an_unknown_packaged_model_is_refused_with_the_known_ones(tmp_path: Path, section: str, model: str) -> None:
    message = refusal(write(tmp_path, "pairs: 1\n"), f"{section}.model={model}")

    assert f"'{section}.model' (by --set): '{model}' is no packaged model; expected one of {SMALL}" in message
    assert SMALL in message


def test_lists_and_maps_become_typed_records(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "pairs: 1\n"
        "sampling:\n"
        "  correlations: [{a: age_group, b: gender, rho: 0.5}]\n"
        "  forbidden: [{age_group: positive, gaming: negative}]\n"
        "  marginals: {humor: {weight: 2, positive: 1}}\n",
    )

    sampling = load_config(path).sampling

    assert sampling.correlations == (Correlation(a="age_group", b="gender", rho=0.5),)
    assert sampling.forbidden == ({"age_group": "positive", "gaming": "negative"},)
    assert (sampling.marginals["humor"].weight, sampling.marginals["humor"].positive) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("pairs: 1\nsampilng: {min_active: 2}\n", "sampilng", "sampling"),
        ("pairs: 1\ngeneration: {temprature: 0.5}\n", "generation.temprature", "temperature"),
        ("pairs: 1\nsampling: {marginals: {gaming: {wieght: 2}}}\n", "sampling.marginals.gaming.wieght", "weight"),
        (
            "pairs: 1\nsampling: {correlations: [{a: x, b: y, rho: 0.1, rhoo: 1}]}\n",
            "sampling.correlations.0.rhoo",
            "rho",
        ),
        (MINED + "  cluster: 4\n", "mining.cluster", "clusters"),
        (MINED + "  annotation: {min_confidnce: 0.4}\n", "mining.annotation.min_confidnce", "min_confidence"),
        ("mining: {source: {kind: threads, path: [x.jsonl], spilt: a}}\n", "mining.source.spilt", "split"),
        ("mining: {source: {kind: helpsteer2, path: [x.jsonl], confg: a}}\n", "mining.source.confg", "config"),
        (
            "mining: {source: {kind: dump, submissions: [x.zst], comments: [y.zst], reply: all}}\n",
            "mining.source.reply",
            "replies",
        ),
        ("pairs: 1\nengine: {kind: vllm, devise: cpu}\n", "engine.devise", "device"),
        ("pairs: 1\nengine: {kind: openai, base_urls: ['http://u/v1'], in_fligt: 3}\n", "engine.in_fligt", "in_flight"),
        ("pairs: 1\nengine: {kind: replay, journal: j, jurnal: k}\n", "engine.jurnal", "journal"),
    ],
)
def test_unknown_key_is_refused_with_the_file_and_the_nearest_key(
    tmp_path: Path, text: str, unknown: str, nearest: str
) -> None:
    path = write(tmp_path, text)

    assert refusal(path) == f"{path}: unknown key '{unknown}'; did you mean '{nearest}'?"


def test_unknown_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "pairs: 1\nhistory: {zzzzzzzz: 1}\n")
    known = "blocks, consistency, min_similarity, min_support, pair, ugc"

    assert refusal(path) == f"{path}: unknown key 'history.zzzzzzzz'; known: {known}"


def test_key_of_another_engine_is_not_suggested(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: 1\nengine: {kind: replay, journal: j, base_urls: ['http://u/v1']}\n"))

    assert "unknown key 'engine.base_urls'" in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("override", "unknown", "nearest"),
    [("pears=2", "pears", "pairs"), ("generation.max_token=9", "generation.max_token", "max_tokens")],
)
def test_unknown_key_in_an_override_is_refused_with_the_nearest_key(
    tmp_path: Path, override: str, unknown: str, nearest: str
) -> None:
    path = write(tmp_path, "pairs: 1\n")

    message = refusal(path, override)

    assert str(path) in message
    assert f"unknown key '{unknown}' (by --set); did you mean '{nearest}'?" in message


@pytest.mark.parametrize("pairs", [10**14, 99_999 * 1024 + 1])
def test_more_shards_than_can_be_named_are_refused(tmp_path: Path, pairs: int) -> None:
    message = refusal(write(tmp_path, f"pairs: {pairs}\n"))

    assert f"{pairs} 'pairs' in shards of 1024 are more than 99999 shards; raise shard_pairs" in message
    assert load_config(write(tmp_path, f"pairs: {99_999 * 1024}\n")).pairs == 99_999 * 1024


def test_missing_pairs_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "name: mine\n")

    assert refusal(path).startswith(f"{path}: 'pairs' is required")


def test_pairs_may_be_left_out_where_all_are_mined(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINED))

    assert (config.pairs, config.mined_pairs, config.sampled_pairs) == (None, 0, 0)


def test_missing_pairs_are_named_where_some_are_sampled(tmp_path: Path) -> None:
    path = write(tmp_path, MINED + "  share: 0.5\n")

    assert refusal(path) == f"{path}: 'pairs' is required where mining.share is less than 1"


@pytest.mark.parametrize(("pairs", "share", "mined"), [(100, 1.0, 100), (100, 0.3, 30), (7, 0.5, 4), (1, 0.6, 1)])
def test_share_of_the_pairs_is_mined_and_the_rest_sampled(tmp_path: Path, pairs: int, share: float, mined: int) -> None:
    config = load_config(write(tmp_path, MINED + f"  share: {share}\npairs: {pairs}\n"))

    assert (config.mined_pairs, config.sampled_pairs) == (mined, pairs - mined)


@pytest.mark.parametrize(("pairs", "share"), [(1, 0.4), (10, 0.001)])
def test_share_that_mines_nothing_is_refused(tmp_path: Path, pairs: int, share: float) -> None:
    path = write(tmp_path, MINED + f"  share: {share}\npairs: {pairs}\n")

    assert refusal(path).startswith(f"{path}: mining.share of all pairs is less than one pair")


def test_mined_replies_are_of_no_assistant(tmp_path: Path) -> None:
    path = write(tmp_path, "style: assistant\n" + MINED)

    assert refusal(path).startswith(f"{path}: style 'assistant' is of sampled replies, and mined replies are a forum's")


def test_section_of_mining_without_keys_is_its_defaults(tmp_path: Path) -> None:
    mining = load_config(write(tmp_path, MINED)).mining

    assert mining is not None
    assert (mining.share, mining.clusters, mining.annotation.mode) == (1.0, 3, "choice")


def test_missing_key_of_an_engine_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "pairs: 1\nengine: {kind: openai}\n")

    assert refusal(path).startswith(f"{path}: 'engine.base_urls' is required: a list with at least one entry, each an ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pairs: many\n", "'pairs' is the text \"many\"; expected a whole number of at least 1 or null"),
        ("pairs: 1.5\n", "'pairs' is 1.5; expected a whole number of at least 1 or null"),
        ("pairs: true\n", "'pairs' is true; expected a whole number of at least 1 or null"),
        (
            "pairs: 1\ngeneration: {temperature: warm}\n",
            "'generation.temperature' is the text \"warm\"; expected a number of at least 0",
        ),
        (
            "pairs: 1\nportrait: modle\n",
            "'portrait' is the text \"modle\"; expected 'template', 'model' or 'paper'; did you mean 'model'?",
        ),
        ("pairs: 1\nengine: {replay: true}\n", "unknown key 'engine.replay'; did you mean 'kind: replay'?"),
        ("pairs: 1\nengine: 5\n", "'engine' is 5; expected keys and values, with a 'kind'"),
        ("pairs: 1\nengine: {kind: 5}\n", "'engine.kind' is 5; expected 'vllm', 'openai', 'replay' or 'dummy'"),
        (
            "mining: {source: {path: [x]}}\n",
            "'mining.source.kind' is required: 'dump', 'threads', 'ultrafeedback', 'helpsteer2' or 'pku_saferlhf'",
        ),
        (
            "mining: {source: {kind: threads, path: x.jsonl}}\n",
            "'mining.source.path' is the text \"x.jsonl\"; expected a list with at least one "
            "entry, each a text that is not empty",
        ),
        ("pairs: 1\nworkers: {threads: 0}\n", "'workers.threads' is 0; expected a whole number of at least 1"),
        (
            "pairs: 1\nname: 2024-01-01 x\n",
            "'name' is the text \"2024-01-01 x\"; expected a text of at most 96 letters, digits, '.', '_' and '-' that "
            "begins with a letter or digit, such as 'my-data'",
        ),
        (
            "pairs: 1\nseeds: {columns: {body: x}}\n",
            "unknown key 'seeds.columns.body'; known: id, impersonal, text, title, topics",
        ),
        ("pairs: 1\ngeneration: {stop: [a, [b]]}\n", "'generation.stop.1' is a list of 1; expected a text"),
        (
            "pairs: 1\nhistory: {ugc: 17, pair: -1}\n",
            "'history.ugc' is 17; expected a whole number from 0 to 16; "
            "'history.pair' is -1; expected a whole number from 0 to 16",
        ),
        (
            "pairs: 1\nengine: {kind: openai, base_urls: ['http://me:pass@host/v1']}\n",
            "'engine.base_urls.0' is the text \"http://***@host/v1\"; "
            "expected an address without user and password, such as 'http://localhost:8000/v1'",
        ),
    ],
)
def test_wrong_value_is_reported_with_given_and_expected(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)

    assert refusal(path) == f"{path}: {said}"


def test_a_text_that_looks_like_a_date_is_a_text(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "pairs: 1\nname: 2024-01-01\n")).name == "2024-01-01"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pairs: 0\n", "pairs"),
        ("pairs: 1\nseed: -1\n", "seed"),
        ("pairs: 1\nhistory: {ugc: 17}\n", "history.ugc"),
        ("pairs: 1\ngeneration: {temperature: .nan}\n", "generation.temperature"),
        ("pairs: 1\nsampling: {correlations: [{a: x, b: y, rho: 1}]}\n", "sampling.correlations.0.rho"),
        (MINED + "  share: 0\n", "mining.share"),
        (MINED + "  clusters: 1\n", "mining.clusters"),
        (MINED + "  min_responses: 1\n", "mining.min_responses"),
        (MINED + "history: {min_similarity: 2}\n", "history.min_similarity"),
    ],
)
def test_value_out_of_range_names_the_key(tmp_path: Path, text: str, key: str) -> None:
    assert f"'{key}' is " in refusal(write(tmp_path, text))


@pytest.mark.parametrize(
    "url",
    [
        *("http://host:99999/v1", "http://host:0/v1", "http://host:port/v1", "http://:8000/v1", "http://[::1/v1"),
    ],
)
def test_a_base_url_that_is_no_address_is_refused_with_it(tmp_path: Path, url: str) -> None:
    message = refusal(write(tmp_path, f"pairs: 1\nengine: {{kind: openai, base_urls: ['{url}']}}\n"))

    assert "'engine.base_urls'" in message and f"'{url}' is not a base URL" in message


@pytest.mark.parametrize("url", ["http://host/v1?key=sk-Ab12", "http://host/v1#sk-Ab12", "http://host/ v1?sig=sk-Ab12"])
def test_what_follows_a_base_url_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    message = refusal(write(tmp_path, f"pairs: 1\nengine: {{kind: openai, base_urls: ['{url}']}}\n"))

    assert "'engine.base_urls" in message and "http://host/" in message
    assert "sk-Ab12" not in message


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        *((f"{{{key}: sk-Ab12}}", key) for key in ("key", "api_key", "api-key", "token", "access_token", "sig")),
        *((f"{{{key}: sk-Ab12}}", key) for key in ("secret", "client_secret", "password", "OPENAI_API_KEY", "apiKey")),
        ("{extra_headers: {Authorization: Bearer sk-Ab12}}", "extra_headers.Authorization"),
        ("{tools: [{type: search, api_key: sk-Ab12}]}", "tools.api_key"),
        ("{api_keys: [sk-Ab12]}", "api_keys"),
    ],
)
def test_a_secret_among_the_fields_of_a_request_is_refused_and_not_repeated(
    tmp_path: Path, extra: str, key: str
) -> None:
    message = refusal(write(tmp_path, f"pairs: 1\ngeneration: {{extra: {extra}}}\n"))

    assert f"'generation.extra': '{key}' would be published" in message and "engine.api_key_env" in message
    assert "sk-Ab12" not in message


@pytest.mark.parametrize(
    "extra",
    [
        "{top_k: 5, max_tokens: null, max_completion_tokens: 256, stop_token_ids: [1], prompt_cache_key: a}",
        "{skip_special_tokens: true, api-version: '2024-10-21', chat_template_kwargs: {eos_token: x}, token: null}",
        "{response_format: {json_schema: {properties: {password: {type: string}}, required: [password, token]}}}",
    ],
)
def test_fields_of_a_request_that_are_no_secrets_are_taken(tmp_path: Path, extra: str) -> None:
    load_config(write(tmp_path, f"pairs: 1\ngeneration: {{extra: {extra}}}\n"))


@pytest.mark.parametrize("key", ["sk-proj-Ab12", "gsk_Ab12Cd34", "AIzaSyAb12", "0123456789ABCDEF", "hf_ab12", "KEY=x"])
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    engine = f"engine: {{kind: openai, base_urls: ['http://host/v1'], api_key_env: {key!r}}}\n"

    message = refusal(write(tmp_path, f"pairs: 1\n{engine}"))

    assert "'engine.api_key_env'" in message and "OPENAI_API_KEY" in message
    assert key not in message


@pytest.mark.parametrize("args", ["[--api-key, sk-Ab12]", "['--api-key=sk-Ab12']", "[--hf-token, sk-Ab12]"])
def test_a_secret_among_the_arguments_of_the_server_is_refused_and_not_repeated(tmp_path: Path, args: str) -> None:
    message = refusal(write(tmp_path, f"pairs: 1\nengine: {{args: {args}}}\n"))

    assert "'engine.args'" in message and "sk-Ab12" not in message


def test_shares_that_do_not_sum_to_one_are_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: 1\nsplits: {train: 0.5}\n"))

    assert "'splits': the shares train + validation + test + test_seen_users must sum to 1" in message


def test_active_min_above_active_max_is_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: 1\nsampling: {min_active: 7}\n"))

    assert "'sampling': min_active (7) is larger than max_active (6)" in message


def test_unknown_kind_of_engine_lists_the_known_ones(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: 1\nengine: {kind: vlm}\n"))

    assert "'engine.kind' is the text \"vlm\"" in message
    assert "'vllm', 'openai', 'replay'" in message


def test_several_problems_are_reported_in_one_line(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: none\nseed: x\n"))

    assert "'pairs'" in message
    assert "'seed'" in message
    assert "\n" not in message


def test_relative_paths_are_relative_to_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    write(
        tmp_path / "configs",
        "pairs: 1\nspace: own.yaml\ntemplates: mine\nseeds: {path: ../posts.jsonl}\n"
        "engine: {kind: replay, journal: old/journal}\n",
    )
    monkeypatch.chdir(tmp_path)

    config = load_config(Path("configs/build.yaml"))

    folder = tmp_path.resolve() / "configs"
    assert config.space == str(folder / "own.yaml")
    assert config.templates == str(folder / "mine")
    assert Path(config.seeds.path).resolve() == tmp_path.resolve() / "posts.jsonl"
    assert isinstance(config.engine, ReplayEngine)
    assert config.engine.journal == str(folder / "old/journal")


def test_paths_of_threads_are_relative_to_the_configuration_file_but_not_those_of_the_hub(tmp_path: Path) -> None:
    def paths(source: str) -> list[tuple[str, ...]]:
        mining = load_config(write(tmp_path, f"mining: {{source: {source}}}\n")).mining
        assert mining is not None
        return [getattr(mining.source, key) for key in mining.source.paths]

    folder = tmp_path.resolve()
    assert paths("{kind: threads, path: [a.jsonl, 'b/*.zst', /c.parquet]}") == [
        (f"{folder}/a.jsonl", f"{folder}/b/*.zst", "/c.parquet")
    ]
    assert paths("{kind: dump, submissions: [RS.zst], comments: [RC.zst]}") == [
        (f"{folder}/RS.zst",),
        (f"{folder}/RC.zst",),
    ]
    assert paths("{kind: ultrafeedback, path: ['hf://openbmb/UltraFeedback']}") == [("hf://openbmb/UltraFeedback",)]


def test_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "pairs: 1\nspace: /data/own.yaml\nseeds: {path: /data/posts.csv}\n"))

    assert (config.space, config.seeds.path) == ("/data/own.yaml", "/data/posts.csv")


@pytest.mark.parametrize("space", ["alignx", "alignx_plus"])
def test_names_that_are_no_paths_stay_as_they_are(tmp_path: Path, space: str) -> None:
    config = load_config(write(tmp_path, f"pairs: 1\nspace: {space}\nseeds: {{path: packaged}}\n"))

    assert (config.space, config.seeds.path) == (space, "packaged")


def test_hub_address_stays_as_it_is(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'pairs: 1\nseeds: {path: "hf://owner/name"}\n'))

    assert config.seeds.path == "hf://owner/name"


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    config = load_config(write(tmp_path, "pairs: 1\nspace: ~/own.yaml\n"))

    assert config.space == str(tmp_path / "home" / "own.yaml")


def test_override_replaces_a_key_of_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "pairs: 1\n"), ["pairs=9"])

    assert config.pairs == 9


def test_override_reaches_a_nested_key_and_leaves_its_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path, "pairs: 1\ngeneration: {top_p: 0.5, temperature: 1}\n")

    generation = load_config(path, ["generation.temperature=0.7"]).generation

    assert (generation.top_p, generation.temperature) == (0.5, 0.7)


def test_override_creates_the_section_that_the_file_lacks(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "pairs: 1\n"), ["sampling.marginals.gaming.weight=3"])

    assert config.sampling.marginals["gaming"].weight == 3.0


def test_errors_name_the_configuration_and_paths_start_from_its_folder(tmp_path: Path) -> None:
    copy = write(tmp_path, "pairs: 1\nspace: own.yaml\n")

    assert load_config(copy, (), "s3://b/build.yaml", "s3://b").space == "s3://b/own.yaml"
    with pytest.raises(UsageError, match=r"^s3://b/build\.yaml: 'pairs' \(by --set\)"):
        load_config(copy, ["pairs=-1"], "s3://b/build.yaml", "s3://b")
    with pytest.raises(UsageError, match=r"^s3://b/build\.yaml: is empty$"):
        load_config(write(tmp_path, ""), (), "s3://b/build.yaml", "s3://b")


def test_later_override_wins(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "pairs: 1\n"), ["pairs=2", "pairs=3"])

    assert config.pairs == 3


def test_overrides_can_supply_what_the_file_lacks(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "name: mine\n"), ["pairs=4"])

    assert (config.name, config.pairs) == ("mine", 4)


@pytest.mark.parametrize(
    ("value", "expected"), [("[a, b]", ("a", "b")), ('["x=y"]', ("x=y",)), ('["\\n"]', ("\n",)), ("[]", ())]
)
def test_override_value_is_yaml(tmp_path: Path, value: str, expected: tuple[str, ...]) -> None:
    config = load_config(write(tmp_path, "pairs: 1\n"), [f"generation.stop={value}"])

    assert config.generation.stop == expected


def test_overrides_can_select_an_engine(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "pairs: 1\n"), ["engine.kind=openai", "engine.base_urls=[http://h:1/v1]"])

    assert config.engine == OpenAiEngine(kind="openai", base_urls=("http://h:1/v1",))


def test_override_that_sets_null_clears_an_optional_key(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "pairs: 1\ntemplates: mine\n"), ["templates=null"])

    assert config.templates is None


@pytest.mark.parametrize("override", ["pairs", "=3", "  =3", ""])
def test_override_of_the_wrong_form_is_quoted_with_an_example(tmp_path: Path, override: str) -> None:
    message = refusal(write(tmp_path, "pairs: 1\n"), override)

    assert message == f"--set {override}: expected key=value, such as --set generation.temperature=0.7"


def test_override_with_a_value_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: 1\n"), "name=[")

    assert message.startswith("--set name=[: the value is not valid YAML (did not find expected node content); ")
    assert message.endswith("""--set 'name="..."'""")


def test_override_below_a_key_that_holds_a_value_is_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: 1\n"), "pairs.each=2")

    assert message == "--set pairs.each=2: 'pairs' holds a value, not keys"


def test_override_of_the_wrong_type_names_the_key(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "pairs: 1\n"), "history.ugc=few")

    assert "'history.ugc' (by --set) is the text \"few\"; expected a whole number" in message


@pytest.mark.parametrize("text", ["pairs: [1\n", "pairs: 1\n\tname: x\n", "pairs: !!python/object:os.system 1\n"])
def test_text_that_is_no_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)

    message = refusal(path)

    assert message.startswith(f"{path}: not readable as YAML: ")
    assert "\n" not in message


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "build.yaml"
    path.write_bytes("name: Müller\n".encode("latin-1"))

    assert refusal(path).startswith(f"{path}: not readable as YAML: ")


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "- pairs\n", "pairs\n"])
def test_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)

    assert refusal(path).startswith((f"{path}: is empty", f"{path}: expected keys and values"))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"

    assert refusal(path) == f"{path}: no such file"


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: a folder, not a YAML file"


@pytest.mark.parametrize("text", ["pairs: 1\n2020-01-01: x\n", "pairs: &loop [*loop]\n"])
def test_yaml_that_json_cannot_hold_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)

    assert str(path) in refusal(path)


def test_read_mapping_gives_the_mapping(tmp_path: Path) -> None:
    assert read_mapping(write(tmp_path, "a: [1, {b: c}]\n")) == {"a": [1, {"b": "c"}]}


def test_the_default_engine_is_vllm(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "pairs: 1\n")).engine == VllmEngine()


@pytest.mark.parametrize("section", ["mining", "publish"])
def test_a_section_that_may_be_absent_is_absent_where_it_is_null(tmp_path: Path, section: str) -> None:
    path = tmp_path / "build.yaml"
    path.write_text(f"pairs: 1\n{section}:\n")
    assert getattr(load_config(path), section) is None
    assert load_config(path, ["history=null"]).history.ugc == 4


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[" * 100_000, "holds more than 64 nested lists or maps"),
        ("{a: &a [x, x], b: &b [*a, *a], c: *d}", "alias '*d' has no anchor before it"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("9" * 5000, "holds a number with too many digits"),
        ("\udcff", "is not UTF-8 text"),
    ],
)
def test_override_with_a_value_beyond_the_bounds_is_refused(tmp_path: Path, value: str, reason: str) -> None:
    message = refusal(write(tmp_path, "pairs: 1\n"), f"name={value}")

    assert message.startswith("--set name=")
    assert reason in message
    assert len(message) < 400


@pytest.mark.parametrize(("value", "name"), [("2024-01-01", "2024-01-01"), ("a-b", "a-b"), ("'1e3'", "1e3")])
def test_override_with_a_text_that_other_yaml_takes_for_something_else(tmp_path: Path, value: str, name: str) -> None:
    assert load_config(write(tmp_path, "pairs: 1\n"), [f"name={value}"]).name == name


def test_override_with_a_value_that_does_not_fit_is_said_to_be_one(tmp_path: Path) -> None:
    path = write(tmp_path, "pairs: 1\nseed: x\n")

    message = refusal(path, "pairs=many", "generation.temperature=hot")

    assert "'pairs' (by --set) is the text \"many\"" in message
    assert "'generation.temperature' (by --set) is the text \"hot\"" in message
    assert "'seed' is the text" in message


def test_override_with_a_small_number(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "pairs: 1\n"), ["limits.max_lost_share=5e-2"]).limits.max_lost_share == 0.05


def test_a_file_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "[" * 100)

    message = refusal(path)

    assert message.startswith(f"{path}: not readable as YAML: line 1: holds more than 64 nested lists or maps")
