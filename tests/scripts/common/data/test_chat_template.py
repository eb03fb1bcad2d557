"""Chat templates: rendered as transformers renders them, and what is learnt is the answer that they write."""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

from common.data.chat_template import TODAY, ChatTemplate
from common.data.conversation import Unusable
from common.data.template import Template
from common.data.tokenizer import PromptTokenizer, load
from common.inference.loading import stop_token_ids
from common.program import BadInput
from tests.scripts.chat_templates import ALL, DATED, ENDS, FOLLOWING, TOKENS

USER = [{"role": "user", "content": ' How <b>old</b> & "wise" are trees? 나무\n'}]
SYSTEM = [{"role": "system", "content": "Be brief, don't guess."}, *USER]
ANSWER = {"role": "assistant", "content": "  2024 years </b> é\n"}
CONVERSATIONS = [USER, SYSTEM, [*USER, ANSWER], [*SYSTEM, ANSWER, *USER]]
CHAT = Template(("{q}",), "{a}", system="Be brief about {topic}.", chat=True)
ROWS = [
    {"q": "How <b>old</b>?\n", "a": "2024 years", "topic": "trees"},
    {"q": "Who?", "a": " me, and\nyou ", "topic": ""},
    {"q": "한국어?", "a": "네 \U0001f642", "topic": "trees"},
]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model's tokenizer files with the special tokens of several families."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny_model / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 400}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TOKENS])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def with_template(model: Path, source: str) -> Path:
    (model / "chat_template.jinja").write_text(source, encoding="utf-8")
    return model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' clock shows the day that is always ours."""
    from transformers.utils import chat_template_utils

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return TODAY

    monkeypatch.setattr(chat_template_utils, "datetime", Fixed)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("name", ALL)
def test_rendered_as_transformers_renders(model, name):
    from transformers import AutoTokenizer

    ours, theirs = ChatTemplate.of(with_template(model, ALL[name])), AutoTokenizer.from_pretrained(model)
    assert ours is not None
    for conversation in CONVERSATIONS:
        for prompt in (True, False):
            expected = theirs.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)
            assert ours.render(conversation, add_generation_prompt=prompt) == expected


def set_pre_tokenizer(model: Path, first: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_alone])
    tokenizer.save(str(model / "tokenizer.json"))


@pytest.mark.parametrize("name", FOLLOWING)
def test_prompt_and_response_are_the_tokens_of_the_conversation(model, name):
    set_pre_tokenizer(model, pre_tokenizers.Split(Regex(r"\s*\n+|\s?\w+|\s+"), "isolated"))  # as Llama 3's
    tokenizer = PromptTokenizer(with_template(model, ALL[name]), CHAT)
    assert tokenizer.chat is not None
    end = "" if ENDS[name][0].startswith(ENDS[name][1]) else "</s>"
    for row in ROWS:
        prompt, learnt = tokenizer.texts(row)[0].pieces
        turns = [*CHAT.messages(row), {"role": "assistant", "content": row["a"]}]
        whole = tokenizer.chat.render(turns, add_generation_prompt=False)
        (prompt_ids,), (response_ids,) = tokenizer.prompt_ids([prompt]), tokenizer.response_ids([prompt], [learnt])
        assert (
            prompt_ids + response_ids
            == load(model).encode((whole + end if end else whole.rstrip()), add_special_tokens=False).ids
        )


def test_a_prompt_that_would_grow_into_the_answer_stays_as_it_is_served(model):
    """GPT-2 reads the two line ends of a prompt as one token, but parts them before a word."""
    tokenizer = PromptTokenizer(with_template(model, ALL["headers"]), CHAT)
    prompt, learnt = tokenizer.texts(ROWS[0])[0].pieces
    (prompt_ids,), (response_ids,) = tokenizer.prompt_ids([prompt]), tokenizer.response_ids([prompt], [learnt])
    plain = load(model)
    assert plain.encode(prompt + learnt, add_special_tokens=False).ids[: len(prompt_ids)] != prompt_ids
    assert response_ids == plain.encode(learnt, add_special_tokens=False).ids


def test_sentencepiece_writes_no_second_space(model):
    set_pre_tokenizer(model, pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="always"))
    tokenizer = PromptTokenizer(with_template(model, ALL["turns"]), CHAT)
    prompt, learnt = tokenizer.texts(ROWS[0])[0].pieces
    (prompt_ids,), (response_ids,) = tokenizer.prompt_ids([prompt]), tokenizer.response_ids([prompt], [learnt])
    assert prompt_ids + response_ids == load(model).encode(prompt + learnt, add_special_tokens=False).ids
    assert response_ids != load(model).encode(learnt, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_turn_is_learnt_and_ends_an_answer(model, name):
    written, end = ENDS[name]
    tokenizer, plain = PromptTokenizer(with_template(model, ALL[name]), CHAT), load(model)
    assert tokenizer.chat is not None
    assert tokenizer.chat.end_of_turn == written
    assert tokenizer.end_id == plain.token_to_id(end)
    assert tokenizer.response_ids(["a"], ["b" + written])[0].count(tokenizer.end_id) == 1
    assert stop_token_ids(model, plain) == {1, tokenizer.end_id}


def test_an_answer_after_the_beginning_of_a_thought(model):
    tokenizer = PromptTokenizer(with_template(model, ALL["thinking"]), CHAT)
    assert tokenizer.chat is not None
    assert tokenizer.texts(ROWS[0])[0].prompt.endswith("<think>\n")
    assert tokenizer.texts(ROWS[0])[0].pieces[1] == "2024 years</s>"
    assert "right after the prompt" in " ".join(tokenizer.chat.warnings())


def test_a_template_with_the_date_says_so(model):
    chat = ChatTemplate.of(with_template(model, DATED))
    assert chat is not None
    assert "26 Jul 2024" in chat.render(USER)
    assert "always 26 Jul 2024" in " ".join(chat.warnings())


def test_a_template_that_fails_stops_nobody_who_does_not_ask_for_it(model):
    with_template(model, "{{ raise_exception('never') }}")
    assert stop_token_ids(model, load(model)) == {1}
    with pytest.raises(BadInput, match="never"):
        PromptTokenizer(model, CHAT)


def test_a_template_that_wants_a_system_turn(model):
    wants = "{{ raise_exception('no system turn') if messages[0].role != 'system' }}" + ALL["lines"]
    assert PromptTokenizer(with_template(model, wants), CHAT).texts(ROWS[0])[0].pieces[1] == "2024 years</s>"


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ {}.pop('a') }}", "{{ 'a'.nothing() }}", "{% break %}"])
def test_whatever_a_template_raises_is_one_line(model, source):
    with pytest.raises(BadInput, match="the model's chat template|its chat template"):
        PromptTokenizer(with_template(model, source), CHAT)


@pytest.mark.parametrize("added", [{"x": {"content": "a"}}, {"3": "a"}, {"3": {"content": 5}}, [1]], ids=json.dumps)
def test_added_tokens_that_are_none(model, added):
    settings = json.loads((model / "tokenizer_config.json").read_text()) | {"added_tokens_decoder": added}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="tokenizer_config.json: added_tokens_decoder does not map ids to tokens"):
        load(model)


@pytest.mark.parametrize("templates", [["a"], [{"name": "default"}], {"default": 3}, 3])
def test_what_is_no_chat_template(model, templates):
    settings = json.loads((model / "tokenizer_config.json").read_text()) | {"chat_template": templates}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="chat.template"):
        PromptTokenizer(model, CHAT)


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token": "</s>"},
        {"eos_token": {"__type": "AddedToken", "content": "<|eot|>"}},
        {"added_tokens_decoder": {"1": {"content": "</s>", "special": True}}, "eos_token": "</s>"},
        {"added_tokens_decoder": {"391": {"content": "<new>", "special": True}}, "eos_token": "<new>"},
        {"additional_special_tokens": ["ing"]},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("older", [None, {"eos_token": "<|im_end|>"}, {"eos_token": {"content": "<turn>"}}], ids=str)
def test_special_tokens_are_those_of_transformers(model, settings, older):
    from transformers import AutoTokenizer

    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", **settings})
    )
    if older:
        (model / "special_tokens_map.json").write_text(json.dumps(older))
    with_template(model, "{{ bos_token }}{{ eos_token }}{{ messages[0].content }}")
    text = "<s>being </s><|eot|> <new> <turn>ing"
    theirs, ours = AutoTokenizer.from_pretrained(model), load(model)
    assert ours.encode(text).ids == theirs.encode(text)
    conversation = [{"role": "user", "content": text}]
    chat = ChatTemplate.of(model)
    assert chat is not None
    assert chat.render(conversation) == theirs.apply_chat_template(conversation, tokenize=False)
    if theirs.eos_token_id is not None:
        assert PromptTokenizer(model, Template(("{q}",), "{a}")).end_id == theirs.eos_token_id


DIALOGUE = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three more?"},
    {"role": "assistant", "content": "It is seven,\n of course."},
]
TURNS_TEMPLATE = Template(turns=("messages",), tools="tools", chat=True)


def learnt_text(tokenizer: PromptTokenizer, fields: dict) -> list[list[str]]:
    """The answers of each example of a row, decoded from the tokens that carry loss."""
    return [[tokenizer.decode(ids) for ids in pieces[1::2]] for pieces in tokenizer.ids(tokenizer.texts(fields))]


@pytest.mark.parametrize("name", FOLLOWING)
def test_every_answer_of_a_conversation_is_learnt_and_nothing_else(model, name):
    set_pre_tokenizer(model, pre_tokenizers.Split(Regex(r"\s*\n+|\s?\w+|\s+"), "isolated"))
    tokenizer = PromptTokenizer(with_template(model, ALL[name]), TURNS_TEMPLATE)
    (text, *others) = tokenizer.texts({"messages": DIALOGUE})
    end = ENDS[name][1]
    answers = [f"Four.{end}", f"It is seven,\n of course.{end}"]
    if name == "plain":  # whose turns end without a mark: each answer is asked for, and closed, on its own
        assert [[text.strip() for text in texts] for texts in learnt_text(tokenizer, {"messages": DIALOGUE})] == [
            ["Four.\n</s>"], ["It is seven,\n of course.\n</s>"]
        ]  # fmt: skip
        return
    assert not others
    assert not text.altered
    learnt = learnt_text(tokenizer, {"messages": DIALOGUE})[0]
    assert [answer.strip() for answer in learnt] == answers
    whole = tokenizer.chat.render(DIALOGUE, add_generation_prompt=False)
    (pieces,) = tokenizer.ids([text])
    assert [*itertools.chain(*pieces)] == load(model).encode(whole.rstrip(), add_special_tokens=False).ids
    assert text.prompt == tokenizer.chat.render(DIALOGUE[:3])
    assert text.question == {"messages": DIALOGUE[:3]}


def test_where_thoughts_are_left_out_later_each_answer_is_an_example(model):
    """Earlier turns lose their thoughts, so no single text has all answers as they are asked for."""
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' and loop.last %}"
        "{{ ' <think></think> ' }}{% endif %}{{ m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    )
    tokenizer = PromptTokenizer(with_template(model, source), TURNS_TEMPLATE)
    first, second = tokenizer.texts({"messages": DIALOGUE})
    assert first.pieces[1] == " <think></think> Four.<|im_end|>"
    assert second.prompt == tokenizer.chat.render(DIALOGUE[:3])
    assert not first.altered
    assert not second.altered


def test_a_system_turn_that_moves_to_the_last_question_is_kept(model):
    """As Mistral's templates do: the prompt that is asked has it, the text with the answer does not."""
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[Q]' }}{% if loop.last and messages[0].role == 'system' %}"
        "{{ messages[0].content }}{% endif %}{{ m.content }}{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
        "{% endif %}{% endfor %}"
    )
    tokenizer = PromptTokenizer(with_template(model, source), TURNS_TEMPLATE)
    texts = tokenizer.texts({"messages": [{"role": "system", "content": "S"}, *DIALOGUE]})
    assert texts[1].pieces == ["[Q]What is two plus two?Four.</s>[Q]SAnd three more?", "It is seven,\n of course.</s>"]


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
TOOL_TURNS = [DIALOGUE[0], CALL, {"role": "tool", "content": "4"}, DIALOGUE[1]]


def test_tool_calls_are_learnt_as_the_template_writes_them(model):
    source = (
        "{% if tools %}{{ 'tools: ' + tools | tojson }}{% endif %}"
        "{% for m in messages %}{{ '<turn>' + m.role + '\\n' }}"
        "{% for call in m.tool_calls %}{{ call.function | tojson }}{% else %}{{ m.content }}{% endfor %}{{ '</turn>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<turn>assistant\\n' }}{% endif %}"
    )
    tokenizer = PromptTokenizer(with_template(model, source), TURNS_TEMPLATE)
    fields = {"messages": TOOL_TURNS, "tools": [{"name": "add"}]}
    assert learnt_text(tokenizer, fields) == [['{"name": "add", "arguments": {"a": 1}}</turn>', "Four.</turn>"]]
    (text,) = tokenizer.texts(fields)
    assert text.prompt.startswith('tools: [{"name": "add"}]<turn>user')
    assert text.question["tools"] == [{"name": "add"}]


def test_a_template_without_tools_refuses_a_call(model):
    tokenizer = PromptTokenizer(with_template(model, ALL["turns"]), TURNS_TEMPLATE)
    with pytest.raises(Unusable, match="does not write tool calls"):
        tokenizer.texts({"messages": TOOL_TURNS})


QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% set text = m.content.split('</think>')[-1] %}"
    "{% if m.role == 'assistant' and loop.last %}{% set thought = m.reasoning_content or "
    "m.content.split('</think>')[0].split('<think>')[-1] if text != m.content or m.reasoning_content else '' %}"
    "{{ '<think>\n' + thought.strip() + '\n</think>\n\n' }}{% endif %}{{ text.lstrip() + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\nTHINK' }}{% endif %}"
)
GPT_OSS = (
    "{% for m in messages %}{{ '<turn>' + m.role }}{% if loop.last and m.thinking %}{{ 'analysis' + m.thinking + "
    "'<turn>' + m.role }}{% endif %}{{ 'final' + m.content + '</turn>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>assistant' }}{% endif %}"
)
THOUGHT = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two."}
IN_CONTENT = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nFour."}
WITH_THOUGHTS = {
    "Qwen3": (QWEN.replace("THINK", ""), "<think>\nTwo and two.\n</think>\n\nFour.<|im_end|>"),
    "Qwen3 that always thinks": (QWEN.replace("THINK", "<think>\n"), "Two and two.\n</think>\n\nFour.<|im_end|>"),
    "DeepSeek R1": (ALL["thinking"], "Two and two.\n</think>\n\nFour.</s>"),
}


@pytest.mark.parametrize("answer", [THOUGHT, IN_CONTENT], ids=["field", "content"])
@pytest.mark.parametrize("name", WITH_THOUGHTS)
def test_thoughts_are_learnt_as_the_template_writes_them(model, name, answer):
    source, expected = WITH_THOUGHTS[name]
    tokenizer = PromptTokenizer(with_template(model, source), TURNS_TEMPLATE)
    (text,) = tokenizer.texts({"messages": [DIALOGUE[0], answer]})
    assert text.pieces[1] == expected
    assert text.response == answer["content"]
    assert not text.altered


def test_thoughts_have_the_name_that_the_template_reads(model):
    tokenizer = PromptTokenizer(with_template(model, GPT_OSS), TURNS_TEMPLATE)
    (text,) = tokenizer.texts({"messages": [DIALOGUE[0], THOUGHT]})
    assert text.pieces[1] == "analysisTwo and two.<turn>assistantfinalFour.</turn>"
    assert not text.altered


def test_a_call_may_end_in_another_way_than_an_answer(model):
    """As Gemma 4's, which end where the tool's result begins."""
    source = (
        "{% for m in messages %}{{ m.role }}{% for call in m.tool_calls %}{{ call.function.name + '<turn>' }}{% else %}"
        "{{ m.content + '</turn>\n' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    tokenizer = PromptTokenizer(with_template(model, source), TURNS_TEMPLATE)
    assert learnt_text(tokenizer, {"messages": TOOL_TURNS}) == [["add<turn>", "Four.</turn>"]]


def test_an_answer_that_the_template_shortens_is_noticed(model):
    tokenizer = PromptTokenizer(with_template(model, ALL["thinking"]), TURNS_TEMPLATE)
    answer = {"role": "assistant", "content": "<think>hm</think>Four."}
    (text,) = tokenizer.texts({"messages": [DIALOGUE[0], answer]})
    assert text.pieces[1] == "hm</think>Four.</s>", "the prompt ends with <think> already"
    shortens = "{% for m in messages %}{{ m.content.split('</think>')[-1] + eos_token }}{% endfor %}"
    tokenizer = PromptTokenizer(with_template(model, shortens), TURNS_TEMPLATE)
    (text,) = tokenizer.texts({"messages": [DIALOGUE[0], answer]})
    assert text.altered
