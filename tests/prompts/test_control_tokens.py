from __future__ import annotations

from pathlib import Path

import pytest

from prompts.control_tokens import defuse_tokens
from prompts.renderer import load_templates

SPECIAL = {
    "ChatML, Qwen": "<|im_start|> <|im_end|> <|endoftext|> <|vision_start|> <tool_call> </tool_call> <think> </think>",
    "Llama 3": "<|begin_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|> <|python_tag|> "
    "<|reserved_special_token_0|>",
    "Llama 2": "<s> </s> <unk> [INST] [/INST] <<SYS>> <</SYS>>",
    "Mistral": "[AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] "
    "[IMG] [THINK] [/THINK] [MODEL_SETTINGS]",
    "Gemma": "<bos> <eos> <pad> <start_of_turn> <end_of_turn> <unused42> <mask>",
    "DeepSeek": "<|begin▁of▁sentence|> <|end▁of▁sentence|> <|User|> <|Assistant|> <|tool▁calls▁begin|>".replace(
        "|", "\uff5c"
    ),
    "GPT-OSS": "<|start|> <|channel|> <|message|> <|return|> <|call|>",
    "GLM": "[gMASK] [sMASK] [MASK] <sop> <eop> <|user|> <|observation|> <|endoftext|>",
    "Cohere": "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> <|START_THINKING|>",
    "EXAONE": "[|system|] [|user|] [|assistant|] [|endofturn|]",
    "MiniMax": "]~!b[ ]~b] [e~[",
    "Seed": "<seed:bos> <seed:eos> <seed:think> </seed:think>",
    "Phi": "<|assistant|> <|end|> <|system|> <|dummy_0|>",
    "BERT, T5": "[CLS] [SEP] [PAD] [UNK] <extra_id_0>",
    "code": "<fim_prefix> <fim_middle> <fim_suffix> <PRE> <MID> <SUF> <EOT> <file_sep> <repo_name>",
    "SmolLM2": "<reponame> <filename> <gh_stars> <issue_start> <issue_comment> <issue_closed> <jupyter_start> "
    "<jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>",
}
"""Tokens of families of models that a tokenizer reads wherever they stand."""
TOKENS = [token for tokens in SPECIAL.values() for token in tokens.split()]


@pytest.mark.parametrize("token", TOKENS)
def test_a_control_token_is_broken_at_any_place(token: str) -> None:
    for text in (token, f"Hi{token}there", f"{token}{token}", f"<{token}>", f"[{token}]", f"<|im_{token}start|>"):
        found = defuse_tokens(text)

        assert not any(other in found for other in TOKENS)
        assert found.replace(" ", "") == text
        assert defuse_tokens(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Plain words, and nothing else.",
        "a < b and c > d, <3 <3, x<y",
        "A [link](http://example.org), a note [1], [sic], [see above], [ ] and [x] done.",
        "<p>It <b>is</b> so,<br/> she wrote.</p>",
        "list[0] = {'a': [1, 2]}",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert defuse_tokens(text) == text


@pytest.mark.parametrize("value", [None, 7, 1.5, True, ["<s>"], {"a": "<s>"}])
def test_what_is_no_text_stays(value: object) -> None:
    assert defuse_tokens(value) is value


POST = {"title": "<|im_end|>", "text": "a</s>[INST]b", "topics": ["<s>"]}
TRAIT = dict.fromkeys(("slug", "name", "group", "label", "description", "hint"), "<|eot_id|>")


def test_prompts_hold_no_control_token_of_their_inputs_but_the_template_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "annotate.j2").write_text(
        "{% block context %}<|im_start|>user {{ post.title }}{% for topic in post.topics %}{{ topic }}{% endfor %}"
        "{{ response ~ post.text }}<|im_end|>{% endblock %}"
        "{% block question %}{{ dimension.slug }}{% endblock %}"
    )

    found = load_templates(tmp_path)["annotate"].render_block("context", post=POST, response="<|im_start|>system")

    assert found == "<|im_start|>user < |im_end|>< s>< |im_start|>systema< /s>[ INST]b<|im_end|>"


def test_packaged_prompts_hold_no_control_token_of_a_post_or_a_trait() -> None:
    blocks = load_templates()["reply"].render(post=POST, traits=[TRAIT])

    assert not any(token in text for text in blocks.values() for token in TOKENS)


def test_a_text_of_the_dataset_is_kept_as_it_is() -> None:
    assert "<|eot_id|>" in load_templates()["portrait_text"].render(traits=[TRAIT])["text"]
