from __future__ import annotations

import asyncio

import pytest

from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.types import Message, Prompt

ONE, TWO, THREE = (Prompt(messages=(Message(role="user", text=text),)) for text in "123")


def replies(policy: ScriptedPolicy, *prompts: Prompt) -> list[str]:
    return [completion.text for completion in asyncio.run(policy.generate(prompts))]


def test_replies_come_in_order_whatever_the_batches():
    policy = ScriptedPolicy(["a", "b", "c"])
    assert replies(policy, ONE, TWO) == ["a", "b"]
    assert replies(policy, THREE) == ["c"]
    assert policy.prompts == [ONE, TWO, THREE]


def test_a_script_that_runs_out_says_so():
    policy = ScriptedPolicy(["a"])
    with pytest.raises(IndexError, match="the script has 1 replies and prompt 2 came"):
        replies(policy, ONE, TWO)


def test_a_function_answers_each_prompt():
    policy = ScriptedPolicy(lambda prompt: prompt.messages[0].text * 2)
    assert replies(policy, ONE, TWO, ONE) == ["11", "22", "11"]
