from __future__ import annotations

import pytest

from visual_arft.envs.direct import DirectEnv
from visual_arft.episode import Episode
from visual_arft.errors import UserError
from visual_arft.types import Completion, Image, Prompt, Task

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
