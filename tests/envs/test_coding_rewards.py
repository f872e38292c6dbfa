from __future__ import annotations

import pytest

from visual_arft import tags
from visual_arft.envs.coding.env import CodingEnv
from visual_arft.envs.coding.grammar import fenced
from visual_arft.envs.coding.rewards import code_reward_constant, executed_reward, paper_reward
from visual_arft.episode import Episode
from visual_arft.types import Action, Completion, Image, Task, ToolCall, ToolResult, Trajectory

CODE = tags.wrap("t", "code", fenced("pass"))
PICTURE = Image(sha256="0" * 64, width=8, height=8)


def step(kind: str, gold: str, reply: str, answers: tuple[str, ...] = ()) -> Trajectory:
    """A step task that expects this action, answered by this reply."""
    expected = Action(kind=kind, content=gold)
    episode = Episode(Task(id="t", question="q", answers=answers, expected=expected), CodingEnv())
    episode.act(Completion(text=reply))
    return episode.trajectory


def problem(names: str) -> str:
    return tags.wrap("t", "problem", names)


@pytest.mark.parametrize(
    ("gold", "reply", "reward"),
    [
        ("{'dark', 'blur'}", problem("{'blur', 'dark'}"), 1.0),
        ("{'dark', 'blur'}", problem("{'dark'}"), 0.0),
        ("{'rotation90', 'dark'}", problem("{'rotation90'}"), 0.5),
        ("{'rotation180', 'crop'}", problem("{'rotation180'}"), 0.5),
        ("{'rotation90', 'dark'}", problem("{'rotation180'}"), 0.0),
        ("{'rotation90', 'dark'}", problem("{'dark'}"), 0.0),
        ("{'rotation90'}", problem("{'rotation90', 'dark'}"), 0.0),
        ("{'dark'}", problem("gloom"), 0.0),
        ("{'dark'}", CODE, 0.0),
        (
            "{'dark'}",
            "<problem>{'dark'}</problem>",
            1.0,
        ),  # its form is the format reward's business
        ("{'dark'}", problem("{'dark'}") + "<answer>1</answer>", 0.0),
    ],
)
def test_problems_are_worth_one_the_rotation_alone_half(gold: str, reply: str, reward: float):
    assert paper_reward(step("problem", gold, reply)) == reward


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        (CODE, 0.9),
        (tags.wrap("t", "code", fenced("1 / 0")), 0.9),  # nothing is run
        ("I am not sure.", 0.9),
        (problem("{'dark'}"), 0.0),
        (tags.wrap("t", "answer", "42"), 0.0),
    ],
)
def test_any_code_is_worth_the_same(reply: str, reward: float):
    assert paper_reward(step("code", "", reply)) == reward


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        (tags.wrap("t", "answer", "the red car"), 1.0),
        (tags.wrap("t", "answer", "car"), 2 / 3),  # 1 shared, of 1 and of 2
        (tags.wrap("t", "answer", "green bus"), 0.0),
        (CODE + "<answer>red car</answer>", 0.0),
        ("<answer>red car</answer>", 1.0),
        ("", 0.0),
    ],
)
def test_answers_are_worth_their_f1(reply: str, reward: float):
    trajectory = step("answer", "red car", reply, answers=("red car",))
    assert paper_reward(trajectory) == pytest.approx(reward)


def test_chinese_answers_are_compared_by_character():
    trajectory = step("answer", "", tags.wrap("t", "answer", "发票，代码"), answers=("发票号码",))
    assert paper_reward(trajectory) == pytest.approx(3 / 4)  # 发 票 码 of four and four


def whole(results: list[ToolResult]) -> Trajectory:
    """An episode of as many programs, and an answer."""
    task = Task(id="t", question="q", answers=("a",))
    episode = Episode(task, CodingEnv(), max_turns=len(results) + 1)
    for result in results:
        episode.act(Completion(text=CODE))
        assert isinstance(episode.pending, ToolCall)
        episode.observe(result)
    episode.act(Completion(text=tags.wrap("t", "answer", "a")))
    return episode.trajectory


def test_programs_earn_by_the_images_they_made():
    made, failed, silent = ToolResult(images=(PICTURE,)), ToolResult(error="no"), ToolResult()
    assert executed_reward(whole([made, failed, silent, made])) == 0.5
    assert executed_reward(whole([])) == 1.0


def test_the_papers_reward_is_for_step_tasks():
    with pytest.raises(ValueError, match="'t' expects no single action; score whole episodes"):
        paper_reward(whole([]))
    assert code_reward_constant(whole([])) == 0.0
