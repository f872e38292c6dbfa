from __future__ import annotations

import pytest

from visual_arft.errors import UserError
from visual_arft.rewards import answer_em, answer_f1, format_reward, score
from visual_arft.tags import parse, wrap
from visual_arft.types import (
    Action,
    Completion,
    Malformed,
    Prompt,
    StopReason,
    Task,
    Trajectory,
    Turn,
)

TOWER = Task(id="tower", question="Who built it?", answers=("Gustave Eiffel", "Eiffel"))
ENDS = {"answer": StopReason.ANSWERED, "search": StopReason.MAX_TURNS}


def played(reply: str, task: Task = TOWER) -> Trajectory:
    """The one-turn trajectory of a reply, read by the search agent's grammar."""
    action = parse(reply, ("search", "answer"))
    turn = Turn(prompt=Prompt(messages=()), completion=Completion(text=reply), action=action)
    malformed = isinstance(action, Malformed)
    reason = StopReason.MALFORMED if malformed else ENDS[action.kind]
    return Trajectory(task=task, turns=(turn,), stop_reason=reason)


def step(kind: str, content: str, answers: tuple[str, ...] = ()) -> Task:
    expected = Action(kind=kind, content=content)
    return Task(id="step", question="Who built it?", answers=answers, expected=expected)


def test_half_of_an_answers_words_earn_the_f1_of_the_closest_gold():
    trajectory = played(wrap("", "answer", "Gustave Flaubert"))
    # against "Gustave Eiffel": 1 shared word of 2 and 2; against "Eiffel": none
    assert answer_f1()(trajectory) == pytest.approx(0.5)
    assert answer_em()(trajectory) == 0.0


def test_an_exact_answer_earns_both():
    trajectory = played(wrap("", "answer", "the Eiffel."))
    assert (answer_f1()(trajectory), answer_em()(trajectory)) == (1.0, 1.0)


@pytest.mark.parametrize("reply", ["Eiffel", wrap("", "search", "Eiffel")])
def test_a_reply_that_does_not_answer_earns_no_answer_reward(reply: str):
    assert answer_f1()(played(reply)) == 0.0
    assert answer_em()(played(reply)) == 0.0


def test_chinese_answers_are_compared_by_character_on_request():
    task = Task(id="发票", question="?", answers=("北京市",))
    trajectory = played(wrap("", "answer", "北京"), task)
    assert answer_f1()(trajectory) == 0.0
    assert answer_f1(cjk=True)(trajectory) == pytest.approx(0.8)  # 2 shared: 2 * 2 / (2 + 3)


def test_a_step_task_is_scored_against_the_gold_action():
    task = step("answer", "Gustave Eiffel")
    assert answer_em()(played(wrap("", "answer", "Gustave Eiffel"), task)) == 1.0


def test_answering_where_a_search_is_due_earns_nothing_even_if_it_is_right():
    task = step("search", "builder of the Eiffel Tower", answers=("Eiffel",))
    trajectory = played(wrap("", "answer", "Eiffel"), task)
    assert answer_f1()(trajectory) == 0.0
    assert format_reward(trajectory) == 0.0


def test_the_format_of_a_step_is_right_when_it_is_the_expected_kind():
    task = step("search", "builder of the Eiffel Tower")
    assert format_reward(played(wrap("", "search", "anything"), task)) == 1.0
    assert format_reward(played("<search>anything</search>", task)) == 0.0


@pytest.mark.parametrize("reason", StopReason)
def test_the_format_of_a_whole_episode_is_right_when_it_ends_with_an_answer(reason: StopReason):
    trajectory = played(wrap("", "answer", "wrong")).model_copy(update={"stop_reason": reason})
    assert format_reward(trajectory) == float(reason is StopReason.ANSWERED)


def test_the_total_is_the_weighted_sum_of_the_rewards_named():
    rewards = {"answer": answer_f1(), "format": format_reward, "em": answer_em()}
    scores = score(
        played(wrap("", "answer", "Gustave Flaubert")), rewards, {"answer": 1.0, "format": 0.3}
    )
    assert scores.rewards == {"answer": 0.5, "format": 1.0}
    assert scores.total == pytest.approx(0.8)  # 1 * 0.5 + 0.3 * 1


def test_a_reward_nobody_wrote_is_an_error_that_lists_those_there_are():
    with pytest.raises(UserError, match="'brevity'; choose from answer, format"):
        score(
            played(wrap("", "answer", "Eiffel")),
            {"format": format_reward, "answer": answer_f1()},
            {"brevity": 1.0},
        )


def test_an_episode_whose_tool_broke_has_no_score():
    broken = Trajectory(
        task=TOWER, turns=(), stop_reason=StopReason.TOOL_FAILED, failure="no route to host"
    )
    with pytest.raises(ValueError, match="'tower': a tool failed \\(no route to host\\)"):
        score(broken, {"format": format_reward}, {"format": 1.0})


def test_an_exception_in_a_reward_is_not_swallowed():
    def broken(trajectory: Trajectory) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        score(played(wrap("", "answer", "Eiffel")), {"broken": broken}, {"broken": 1.0})
