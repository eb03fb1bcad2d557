from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from common.data.template import Template
from common.data.tokenizer import PromptTokenizer, load
from common.program import BadInput

PLAIN = Template(("Q: {q}", "A:"), " {a}", separator="\n")
CHAT = Template(("{q}",), "{a}", system="Be brief about {topic}.", chat=True)
ROW = {"q": "How <b>old</b>?\n", "a": "2024 years", "topic": "trees"}
# What the templates of Llama 3 and SmolLM2 do: loops, conditions, special tokens, whitespace control, a date.
LLAMA_LIKE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<system>none' + eos_token }}
    {%- endif %}
    {{- '<' + message['role'] + '>' + message['content'] | trim + eos_token }}
    {%- if loop.index > 8 %}{% break %}{% endif %}
{%- endfor %}
{% if messages | length > 1 %}
    {% set greeting = "hello" %}
{{ greeting }}
{% endif %}
{%- if add_generation_prompt %}
    {{- '<assistant>' + ({"date": date_string} | tojson) }}
{%- endif %}
"""


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's tokenizer files, to change at will."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_model / name, tmp_path)
    return tmp_path


def add_bos(folder: Path) -> None:
    """Make the tokenizer put <s> before a text, as Llama 3's does."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))


def test_plain_prompt_has_bos_and_response_has_eos(model):
    add_bos(model)
    tokenizer = PromptTokenizer(model, PLAIN)
    assert tokenizer.texts(ROW)[0].prompt == f"Q: {ROW['q']}\nA:"
    (prompt,), (response,) = (
        tokenizer.prompt_ids([tokenizer.texts(ROW)[0].prompt]),
        tokenizer.response_ids([tokenizer.texts(ROW)[0].prompt], [tokenizer.texts(ROW)[0].pieces[1]]),
    )
    assert prompt[0] == 0 and prompt.count(0) == 1
    assert 0 not in response and response[-1] == 1
    assert load(model).decode(prompt + response) == f"Q: {ROW['q']}\nA: 2024 years"


@pytest.mark.parametrize("source", [None, LLAMA_LIKE])
def test_chat_equals_transformers(model, source):
    from transformers import AutoTokenizer

    add_bos(model)
    if source:
        (model / "chat_template.jinja").write_text(source)
    ours = PromptTokenizer(model, CHAT)
    theirs = AutoTokenizer.from_pretrained(model)
    expected = theirs.apply_chat_template(
        CHAT.messages(ROW),
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
        date_string="26 Jul 2024",
    )
    assert ours.prompt_ids([ours.texts(ROW)[0].prompt]) == [expected]


def test_named_chat_templates(model):
    (model / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages[1].content }}!"}]
    settings = json.loads((model / "tokenizer_config.json").read_text()) | {"chat_template": named}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert PromptTokenizer(model, CHAT).texts(ROW)[0].prompt == ROW["q"] + "!"


def test_a_model_without_chat_template(model):
    (model / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match="no chat template"):
        PromptTokenizer(model, CHAT)
    PromptTokenizer(model, PLAIN)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "cannot be read"),
        ("{{ raise_exception('roles must alternate') }}", "refused the conversation: roles must alternate"),
        ("{{ 3 + none }}", "refused the conversation: unsupported operand"),
        ("{{ messages[0].content | join(5) | nosuch }}", "cannot be read"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_chat_template_that_fails(model, source, message):
    (model / "chat_template.jinja").write_text(source)
    with pytest.raises(BadInput, match=message):
        PromptTokenizer(model, CHAT).texts(ROW)


def test_eos_of_config_when_the_tokenizer_names_none(model):
    (model / "tokenizer_config.json").write_text("{}")
    (model / "config.json").write_text('{"eos_token_id": [5, 6]}')
    assert PromptTokenizer(model, PLAIN).response_ids(["Q"], [""]) == [[5]]


@pytest.mark.parametrize("settings", [{"eos_token": "<absent>"}, {"eos_token": {"content": "<absent>"}}, {}])
def test_no_end_token(model, settings):
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "config.json").write_text('{"vocab_size": 384}')
    with pytest.raises(BadInput, match="no end token"):
        PromptTokenizer(model, PLAIN)


def test_truncation_and_padding_of_the_file_are_off(model):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(model / "tokenizer.json"))
    assert len(load(model).encode("one two three four five six").ids) not in (3, 50)


@pytest.mark.parametrize("cut", [0, 100, -20])
def test_a_truncated_tokenizer_is_named(model, cut):
    path = model / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadInput, match=r"tokenizer\.json: truncated or not a tokenizer"):
        load(model)
