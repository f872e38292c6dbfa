from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tiny_vlm import ask, tokenizer
from visual_arft.errors import TokenMismatch, UserError
from visual_arft.model.chat import Chat
from visual_arft.model.tiny import END, SPECIAL, TEMPLATE
from visual_arft.types import Image, Message, Prompt

SMALL = Image(sha256="a" * 64, width=1, height=1)
LARGE = Image(sha256="b" * 64, width=3, height=2)
"""In these tests a model spends one token on a pixel."""

EXTRA = "<|tool|>"
"""A special token that somebody added to the tokenizer later."""

ROLES = ("system", "user", "assistant")


def extended() -> PreTrainedTokenizerFast:
    made = copy.deepcopy(tokenizer())
    made.add_special_tokens({"additional_special_tokens": [EXTRA]})
    return made


TOKENIZER = extended()
CONTROL = frozenset(TOKENIZER.convert_tokens_to_ids([*SPECIAL, EXTRA]))
END_ID = TOKENIZER.convert_tokens_to_ids(END)

texts = st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*SPECIAL, EXTRA]))).map("".join)
images = st.lists(st.sampled_from([SMALL, LARGE]), max_size=2).map(tuple)
messages = st.builds(Message, role=st.sampled_from(ROLES), text=texts, images=images)
questions = st.builds(Message, role=st.just("user"), text=texts, images=images)
ordinary = st.text().filter(lambda text: "<|" not in text)
sampled = st.lists(
    st.integers(0, len(TOKENIZER) - 1).filter(lambda i: i not in CONTROL), max_size=9
)


def chat(template: str = TEMPLATE) -> Chat:
    tokens = copy.copy(TOKENIZER)
    tokens.chat_template = template
    return Chat(tokens, "<|image_pad|>", lambda image: image.width * image.height)


def said(text: str, token_ids: tuple[int, ...] | None = None) -> Message:
    return Message(role="assistant", text=text, token_ids=token_ids)


def controls(ids: tuple[int, ...]) -> list[int]:
    return [token for token in ids if token in CONTROL]


@given(texts)
def test_text_becomes_no_control_token_and_comes_back_as_it_was(text: str):
    ids = chat().tokenize(text)
    assert CONTROL.isdisjoint(ids)
    assert chat().decode(ids) == text


@given(st.lists(messages, min_size=1, max_size=4))
def test_whatever_is_written_in_a_prompt_its_control_tokens_are_the_template_s(told: list[Message]):
    hollow = [message.model_copy(update={"text": ""}) for message in told]
    ids, expected = (chat().encode(Prompt(messages=tuple(each))).ids for each in (told, hollow))
    assert controls(ids) == controls(expected)


@given(st.lists(messages, min_size=1, max_size=4))
def test_every_image_has_as_many_placeholders_as_the_model_has_features(told: list[Message]):
    encoded = chat().encode(Prompt(messages=tuple(told)))
    assert encoded.images == tuple(image for message in told for image in message.images)
    chat().check(encoded.ids, encoded.images, "the prompt")
    features = sum(image.width * image.height for image in encoded.images)
    assert encoded.ids.count(chat().image_token_id) == features


@given(questions, st.lists(st.tuples(sampled, questions), min_size=1, max_size=3))
def test_a_growing_chat_extends_its_ids_by_the_very_ids_that_were_sampled(
    opening: Message, steps: list[tuple[list[int], Message]]
):
    prompt = Prompt(messages=(opening,))
    for ids, news in steps:
        sofar = (*chat().encode(prompt).ids, *ids, END_ID)
        reply = said(chat().decode(ids), (*ids, END_ID))
        prompt = Prompt(messages=(*prompt.messages, reply, news))
        grown = chat().encode(prompt).ids
        assert grown[: len(sofar)] == sofar
        assert grown.count(END_ID) == len(prompt.messages)  # each ends once


def test_an_odd_tokenisation_of_a_reply_is_kept():
    odd = [chat().tokenize(letter)[0] for letter in "tower"]
    assert odd != chat().tokenize("tower")
    reply = said("tower", (*odd, END_ID))
    ids = chat().encode(Prompt(messages=(*ask("What?").messages, reply, *ask("So?").messages))).ids
    start = chat().encode(ask("What?")).ids
    assert ids[len(start) : len(start) + len(odd) + 1] == (*odd, END_ID)


@given(st.lists(st.tuples(st.sampled_from(ROLES), ordinary), max_size=3), ordinary)
def test_ordinary_text_gives_the_ids_that_transformers_gives(
    told: list[tuple[str, str]], question: str
):
    told = [*told, ("user", question)]
    conversation = [{"role": role, "content": text} for role, text in told]
    expected = TOKENIZER.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"]
    prompt = Prompt(messages=tuple(Message(role=role, text=text) for role, text in told))
    assert list(chat().encode(prompt).ids) == expected


def test_images_stand_where_transformers_puts_them():
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is it?"}]
    [expected] = TOKENIZER.apply_chat_template(
        [[{"role": "user", "content": content}]], add_generation_prompt=True
    )["input_ids"]
    assert list(chat().encode(ask("What is it?", SMALL, SMALL)).ids) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{{ messages[1].content }}{{ messages[0].content }}",
    ],
)
def test_a_template_that_does_not_write_each_message_once_in_order_is_refused(template: str):
    prompt = Prompt(messages=(Message(role="system", text="s"), Message(role="user", text="u")))
    with pytest.raises(UserError, match=r"chat template drops or repeats messages of \['system'"):
        chat(template).encode(prompt)


def test_a_template_that_knows_no_images_is_refused():
    template = "{% for m in messages %}{{ m.content[-1].text }}{% endfor %}"
    with pytest.raises(UserError, match="writes 0 image tokens for 1 images"):
        chat(template).encode(ask("What?", SMALL))


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(UserError, match="the tokenizer has no chat template; give an instruct"):
        chat("")


@pytest.mark.parametrize("images", [(), (SMALL,), (LARGE, SMALL), (SMALL, SMALL, LARGE)])
def test_placeholders_that_are_not_these_images_are_a_mismatch(images: tuple[Image, ...]):
    ids = chat().encode(ask("What?", SMALL, LARGE)).ids
    with pytest.raises(TokenMismatch, match=r"^task 't1': image tokens stand in runs of \[1, 6\]"):
        chat().check(ids, images, "task 't1'")


def test_a_reply_may_hold_no_control_token_but_its_end():
    assert set(chat().banned_ids) == CONTROL - {END_ID}
