from __future__ import annotations

import pytest

from visual_arft.envs.direct import (
    COT_TEMPLATE,
    COT_TEXT_TEMPLATE,
    TEXT_TEMPLATE,
    DirectEnv,
    answer_after_thought,
)
from visual_arft.episode import Episode
from visual_arft.errors import UserError
from visual_arft.types import Action, Completion, Image, Prompt, Task

PICTURE = Image(sha256="0" * 64, width=8, height=8)
TASK = Task(id="t", question="Which town?", answers=("Oslo",), images=(PICTURE,))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Oslo", "Oslo"),
        ("<think>A fjord.</think><answer> Oslo </answer>", "Oslo"),
        (
            "<answer>Oslo</answer><answer>Bergen</answer>",
            "<answer>Oslo</answer><answer>Bergen</answer>",
        ),
        ("<think>A fjord.</think> Oslo", "Oslo"),
        ("<think>Or <answer>Bergen</answer>?</think><answer>Oslo</answer>", "Oslo"),
        ("", ""),
    ],
)
def test_one_reply_is_the_answer(reply: str, answer: str):
    episode = Episode(TASK, DirectEnv())
    episode.act(Completion(text=reply))
    assert episode.trajectory.answer == answer


def test_the_prompt_is_the_image_and_the_question():
    prompt = Episode(TASK, DirectEnv("Say: {question}")).pending
    assert isinstance(prompt, Prompt)
    [message] = prompt.messages
    assert (message.text, message.images) == ("Say: Which town?", (PICTURE,))


def test_a_template_without_a_question_is_refused():
    with pytest.raises(UserError, match=r"write \{question\} where"):
        DirectEnv("Say something.")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>6 x 7</think><answer> 42 </answer>", "42"),
        ("<answer>41</answer> no, <answer>42</answer>", "42"),
        ("<think>6 x 7</think>\n42", "42"),
        ("<think>6 x <answer>42", None),
        ("<think>6 x 7</think> ", None),
    ],
)
def test_who_thinks_aloud_answers_after_it_or_not_at_all(reply: str, answer: str | None):
    action = DirectEnv(COT_TEMPLATE, answer_after_thought).parse(reply)
    assert (action.content if isinstance(action, Action) else None) == answer


def test_templates_for_text_do_not_speak_of_an_image():
    for template in (TEXT_TEMPLATE, COT_TEXT_TEMPLATE):
        assert "image" not in template
    assert "about the image" in COT_TEMPLATE
