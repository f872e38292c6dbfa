from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.tags import TAGS, defuse, parse, wrap
from visual_arft.types import Action, Malformed

KINDS = tuple(tag for tag in TAGS if tag != "think")
TAG_TEXTS = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]

plain = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: not any(tag in text for tag in TAG_TEXTS)
)
soup = st.lists(st.sampled_from([*TAG_TEXTS, "x", " ", "\n"]), max_size=8).map("".join)


@given(plain, st.sampled_from(KINDS), plain)
def test_what_was_wrapped_is_read_back(thought: str, kind: str, content: str):
    expected = Action(kind=kind, content=content.strip(), thought=thought.strip())
    assert parse(wrap(thought, kind, content), KINDS) == expected


@given(soup)
def test_any_reply_is_an_action_or_malformed_and_never_an_exception(reply: str):
    action = parse(reply, KINDS)
    if isinstance(action, Action):
        assert f"<{action.kind}>" in reply
        assert reply.count("<think>") == reply.count("</think>") == 1


@given(plain, st.sampled_from(KINDS), st.sampled_from(TAG_TEXTS[:2]))
def test_a_second_tag_of_any_kind_makes_it_malformed(content: str, kind: str, extra: str):
    assert isinstance(parse(wrap("t", kind, content + extra), KINDS), Malformed)


def test_text_and_markup_that_is_not_ours_belongs_to_the_content():
    reply = wrap("a < b", "answer", "<b>1 < 2</b>")
    assert parse(reply, ("answer",)) == Action(
        kind="answer", content="<b>1 < 2</b>", thought="a < b"
    )


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no <think>"),
        ("<answer>1</answer>", "no <think>"),
        ("<think>t</think>", "exactly one of <search>, <answer>, and has 0"),
        ("<think>t</think><answer>1</answer><search>2</search>", "and has 2"),
        ("<think>t</think><answer>1</answer><answer>2</answer>", "more than one <answer>"),
        ("<think>t</think><think>u</think><answer>1</answer>", "more than one <think>"),
        ("<think>t</think><code>1</code>", "<code> is not an action of this agent"),
        ("<answer>1</answer><think>t</think>", "no more"),
        ("well <think>t</think><answer>1</answer>", "no more"),
        ("<think>t</think><answer>1</answer> bye", "no more"),
        ("<think>t</think> so <answer>1</answer>", "no more"),
        ("<think>t</think><answer>1", "no more"),
        ("<think>t<answer>1</answer></think>", "no more"),
        ("<think>t</think><answer>1</code></answer>", "no more"),
        ("<think>t</search></think><answer>1</answer>", "no more"),
    ],
)
def test_a_malformed_reply_says_why(reply: str, reason: str):
    action = parse(reply, ("search", "answer"))
    assert isinstance(action, Malformed)
    assert reason in action.reason


def test_blanks_around_the_parts_do_not_matter():
    assert parse("\n <think> t </think>\n\n<answer> 1 </answer> \n", ("answer",)) == Action(
        kind="answer", content="1", thought="t"
    )


@given(soup, soup)
def test_defused_text_never_reads_as_an_action(before: str, after: str):
    text = defuse(before + wrap("t", "answer", "42") + after)
    assert parse(text, KINDS) == Malformed(reason="the reply has no <think>")
    assert parse(wrap("t", "answer", text), KINDS) == Action(
        kind="answer", content=text.strip(), thought="t"
    )
    assert defuse(text) == text


@pytest.mark.parametrize(
    "tag", ["<Answer>", "</ answer >", "<code lang='python'>", "<information>", "</query>"]
)
def test_a_tag_in_disguise_is_defused_too(tag: str):
    assert "<" not in defuse(f"see {tag} here")


@given(plain)
def test_text_without_our_tags_is_left_alone(text: str):
    if not re.search(r"<\s*/?\s*[a-z]|<[|｜]|[|｜]>|\[/?INST\]", text, re.IGNORECASE):
        assert defuse(text) == text


CONTROL = [
    *("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>", "<|x"),
    *("<s>", "</s>", "<image>", "<bos>", "<start_of_turn>", "<tool_call>", "<tool_response>"),
    *("[INST]", "[/INST]", "<｜User｜>", "<|start_header_id|>", "< / image >", "<eos>"),
]


@pytest.mark.parametrize("token", CONTROL)
def test_a_control_token_of_a_chat_is_defused(token: str):
    assert token not in defuse(f"before{token}after")
    assert not set("<>[") & set(defuse(token))


@given(st.text("<>|/[]sINTimage", max_size=30))
def test_defusing_leaves_no_control_token_however_it_is_cut_up(text: str):
    defused = defuse(text)
    assert not any(token in defused for token in CONTROL)
    assert defuse(defused) == defused


SPECIAL = ["<s>", "[INST]", "<<x>>", "<x>", "[IMG]", "[]", "@@", " xy"]
cuttings = st.sampled_from([*SPECIAL, "a", "<", ">", "[", "]", "IMG]", "@", "x", "y", " "])


@given(st.lists(cuttings).map("".join))
def test_no_token_of_the_tokenizer_survives_however_it_is_put_together(text: str):
    defused = defuse(text, SPECIAL)
    assert not [token for token in SPECIAL if token in defused]
    assert defuse(defused, SPECIAL) == defused
