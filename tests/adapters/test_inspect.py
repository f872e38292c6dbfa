"""The benchmarks as Inspect plays them, beside the same benchmarks as `arft bench` plays them."""

from __future__ import annotations

import base64
import gc
import io
import json
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("inspect_ai")

from inspect_ai import eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model
from rich.console import Console

from visual_arft import __version__
from visual_arft.adapters import inspect as ours
from visual_arft.bench.settings import BenchConfig
from visual_arft.experiment.benchmark import bench
from visual_arft.experiment.pace import Pace
from visual_arft.images import decode, encode
from visual_arft.policies.fake_server import Asked, FakeServer, Fault
from visual_arft.store import Store
from visual_arft.types import StopReason, Trajectory

# Inspect's own code warns: it calls tenacity in an old way, and leaves streams open.
pytestmark = [
    pytest.mark.inspect,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

TURN = """
import cv2
image = cv2.imread('path_to_input_image.jpg')
cv2.imwrite('path_to_output_image.jpg', cv2.flip(image, -1))
"""
SIGNS = {
    "in the box": "I cannot crop.",
    "cv2.imwrite": "<think>It says so.</think><answer>688 143</answer>",
    "<tips>Write": f"<think>Over.</think><code>\n```python{TURN}```\n</code>",
    "": "<think>Upside down.</think><problem>{'rotation180'}</problem>",
}
"""Replies by what occurs in the prompt; the answer is right for the first sign."""

ROWS = [
    {"id": "a", "question": "Who drew the tower?", "golden_answers": ["Stephen Sauvestre"]},
    {
        "id": "b",
        "question": "Who drew the bridge?",
        "golden_answers": ["John Roebling", "Roebling"],
    },
    {"id": "c", "question": "Who drew the dam?", "golden_answers": ["Gordon Kaufmann"]},
]
CORPUS = ["Sauvestre drew the tower.", "Roebling drew the bridge.", "Kaufmann drew the dam."]
DRAWN = {
    "Sauvestre drew": "<think>There.</think><answer>Sauvestre</answer>",
    "Roebling drew": "<think>There.</think><answer>Roebling</answer>",
    "Kaufmann drew": "<answer>Kaufmann</answer>",
    "tower?": "<think>Who?</think><search>tower</search>",
    "bridge?": "<think>Who?</think><search>bridge</search>",
    "": "<think>Who?</think><search>dam</search>",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty folder to work in, which logs and what Inspect keeps for itself go into too."""
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "INSPECT_LOG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("FAKE_API_KEY", "none")
    yield
    gc.collect()  # Inspect leaves connections open; they may warn here and not later


@pytest.fixture
def multihop(tmp_path: Path) -> dict[str, str]:
    """Three questions, and what is searched."""
    questions, corpus = tmp_path / "dev.jsonl", tmp_path / "corpus.jsonl"
    questions.write_text("\n".join(json.dumps(row) for row in ROWS))
    rows = [{"id": str(n), "contents": f"On it\n{text}"} for n, text in enumerate(CORPUS)]
    corpus.write_text("\n".join(json.dumps(row) for row in rows))
    return {"data": str(questions), "corpus": str(corpus)}


def reply_to(text: str, script: dict[str, str]) -> str:
    return script[next(key for key in script if key in text)]


def mock(script: dict[str, str], **more: object) -> Model:
    """A model of Inspect's that replies as the engine `scripted` does."""

    def reply(messages, tools, choice, config) -> ModelOutput:
        text = "\n".join(message.text for message in messages)
        output = ModelOutput.from_content("mock", reply_to(text, script), **more)
        output.usage = ModelUsage(input_tokens=7, output_tokens=3, input_tokens_cache_read=2)
        return output

    return get_model("mockllm/model", custom_outputs=reply, memoize=False)


def served(server: FakeServer) -> Model:
    return get_model("openai-api/fake/m", base_url=server.base_url, memoize=False)


def inspect(*line: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "inspect_ai", *line, "--display", "plain"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def play(task: str, model: Model | str, *, epochs: int = 1, **arguments: object) -> EvalLog:
    """The log that Inspect leaves of one of the tasks."""
    [log] = eval(
        f"visual_arft/{task}",
        model=model,
        task_args=arguments,
        epochs=epochs,
        display="none",
        fail_on_error=False,
    )
    assert log.status == "success", log.error
    return read_eval_log(log.location, resolve_attachments=True)


def trajectories(log: EvalLog) -> dict[str, Trajectory]:
    return {
        str(sample.id): Trajectory.model_validate(sample.store[ours.TRAJECTORY])
        for sample in log.samples or []
    }


def without_usage(trajectory: Trajectory) -> Trajectory:
    """As the engine `scripted` records it, which counts nothing."""
    turns = [
        turn.model_copy(update={"completion": turn.completion.model_copy(update={"usage": None})})
        for turn in trajectory.turns
    ]
    return trajectory.model_copy(update={"turns": tuple(turns)})


def assert_same(log: EvalLog, suite: str, script: dict[str, str], **settings: object) -> None:
    """Plays the same by `arft bench`: episodes and scores must be equal."""
    Path("script.json").write_text(json.dumps(script))
    pace = Pace(limit=settings.pop("limit", None))
    config = BenchConfig(suite=suite, model="script.json", engine="scripted", **settings)
    report = bench(config, Path("run"), pace)
    entries = {entry.trajectory.task.id: entry.trajectory for entry in Store(Path("run"))}
    played = trajectories(log)
    assert list(played) == [task.id for task in (each.task for each in played.values())]
    assert {name: without_usage(each) for name, each in played.items()} == entries
    assert 0 < report.overall["paper"].f1 < 100
    assert log.results is not None
    for score in log.results.scores:
        metric, _, part = score.name.partition("_")
        assert 100 * score.metrics["mean"].value == pytest.approx(
            getattr(report.overall[metric], part), abs=0.005
        )
        for split, cells in report.splits.items():
            assert 100 * score.metrics[f"grouped_{split}"].value == pytest.approx(
                getattr(cells[metric], part), abs=0.005
            )
    assert len(log.results.scores) == 4


@pytest.mark.parametrize("mode", ["agent", "agent-append"])
def test_signs_are_mended_and_read_as_by_the_benchmark(mode: str):
    log = play("mini_mat_coding", mock(SIGNS), limit=8, mode=mode)
    assert_same(log, "mini-mat-coding", SIGNS, limit=8, mode=mode)


@pytest.mark.parametrize("mode", ["direct", "cot", "rag", "agent", "agent-append"])
def test_questions_are_answered_as_by_the_benchmark(mode: str, multihop: dict[str, str]):
    script = DRAWN
    if mode in ("direct", "cot"):
        multihop.pop("corpus")
        script = {"tower": "<think>.</think> Sauvestre", "": "<answer>Roebling</answer>"}
    log = play("hotpotqa", mock(script), mode=mode, **multihop)
    assert_same(log, "hotpotqa", script, mode=mode, **multihop)


def test_the_generated_search_brings_its_own_corpus():
    script = {
        "<information>": "<think>.</think><answer>Tar</answer>",
        "": "<think>Who?</think><search>keeper</search>",
    }
    [trajectory] = trajectories(play("mini_mat_search", mock(script), limit=1)).values()
    assert trajectory.answer == "Tar"
    assert "Content:" in trajectory.turns[0].result.text


def test_chinese_answers_and_splits_are_scored_as_by_the_benchmark():
    picture = encode(np.zeros((8, 8, 3), np.uint8))
    Path("a.png").write_bytes(picture)
    row = {"ori_image_path": "a.png", "processed_image_path": "a.png", "type": ["none"]}
    rows = [
        {"id": 1, "question": "哪里?", "answers": ["北京市"], "split": "simple", **row},
        {"id": 2, "question": "Where?", "answers": ["Rome"], "split": "hard", **row},
    ]
    Path("mat.json").write_text(json.dumps(rows))
    script = {"": "<answer>北京</answer>"}
    log = play("mat_coding", mock(script), data="mat.json", mode="direct")
    assert_same(log, "mat-coding", script, data="mat.json", mode="direct")


def test_each_step_is_a_message_with_its_picture():
    log = play("mini_mat_coding", mock(SIGNS), limit=1)
    [sample] = log.samples or []
    shown = [
        [part.image for part in message.content if part.type == "image"]
        for message in sample.messages
        if message.role == "user"
    ]
    pixels = [decode(base64.b64decode(url.partition(",")[2])) for [url] in shown]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    turned = pixels[0][::-1, ::-1].astype(int)
    assert np.abs(pixels[2] - turned).mean() < 3  # JPEG
    assert [message.content[-1].type for message in sample.messages[::2]] == ["text"] * 3
    replies = [message.text for message in sample.messages if message.role == "assistant"]
    assert replies == [SIGNS[""], SIGNS["<tips>Write"], SIGNS["cv2.imwrite"]]
    assert sample.output.completion == replies[-1]
    assert [event.data["images"][0]["width"] for event in sample.events if event.event == "info"]


def test_a_growing_chat_is_shown_once():
    log = play("mini_mat_coding", mock(SIGNS), limit=1, mode="agent-append")
    [sample] = log.samples or []
    assert [message.role for message in sample.messages] == ["user", "assistant"] * 3
    calls = [event for event in sample.events if event.event == "model"]
    assert [len(event.input) for event in calls] == [1, 3, 5]
    assert calls[2].input[1].text == SIGNS[""]


def test_tokens_from_a_cache_are_counted():
    log = play("mini_mat_coding", mock(SIGNS), limit=1)
    [trajectory] = trajectories(log).values()
    usages = [turn.completion.usage for turn in trajectory.turns]
    assert [(each.prompt_tokens, each.completion_tokens) for each in usages if each] == [(9, 3)] * 3


def test_a_malformed_reply_scores_0_and_says_why():
    log = play("mini_mat_coding", mock({"": "The sign says 688 143."}), limit=1)
    [sample] = log.samples or []
    score = sample.scores["em_and_f1"]
    assert set(score.value.values()) == {0.0}
    assert score.explanation == "malformed: the reply has no <think>"


@pytest.mark.parametrize("reason", ["max_tokens", "model_length"])
def test_a_reply_that_was_cut_is_no_answer(reason: str):
    answer = "<think>.</think><answer>688 143</answer>"
    log = play("mini_mat_coding", mock({"": answer}, stop_reason=reason), limit=1)
    [trajectory] = trajectories(log).values()
    assert trajectory.stop_reason is StopReason.TRUNCATED
    assert log.results.scores[0].metrics["mean"].value == 0


def test_the_log_says_what_was_asked_by_which_version():
    log = play("mini_mat_coding", mock(SIGNS), limit=1)
    [sample] = log.samples or []
    assert (sample.input, sample.target) == ("What does the sign say?", ["688 143"])
    assert sample.metadata == {"split": "test", "kind": "rotation180"}
    assert log.eval.task_version == __version__
    assert log.eval.task_args == {"limit": 1}


def test_an_episode_that_a_limit_of_inspect_ends_scores_0():
    [log] = eval(ours.mini_mat_coding(limit=1), model=mock(SIGNS), message_limit=3, display="none")
    [sample] = log.samples or []
    assert sample.scores["em_and_f1"].explanation == "a limit of Inspect"
    assert log.results.scores[0].metrics["mean"].value == 0


def test_a_task_counts_once_with_its_mean_over_epochs(multihop: dict[str, str]):
    told = iter(["Sauvestre", "Eiffel", "Eiffel", "Eiffel", "Stephen Sauvestre", "x", "x", "x"])

    def reply(messages, tools, choice, config) -> ModelOutput:
        output = ModelOutput.from_content("mock", f"<answer>{next(told)}</answer>")
        output.usage = ModelUsage()
        return output

    model = get_model("mockllm/model", custom_outputs=reply, memoize=False)
    log = play("musique", model, epochs=4, data=multihop["data"], mode="direct", limit=2)
    exact = next(score for score in log.results.scores if score.name == "paper_em")
    assert exact.metrics["mean"].value == 0.125
    assert len(log.samples or []) == 8


def test_settings_are_the_models_unless_inspect_is_told_otherwise():
    seen = []

    def reply(messages, tools, choice, config) -> ModelOutput:
        seen.append((config.temperature, config.max_tokens))
        output = ModelOutput.from_content("mock", "no")
        output.usage = ModelUsage()
        return output

    model = get_model("mockllm/model", custom_outputs=reply, memoize=False)
    play("mini_mat_coding", model, limit=1)
    eval(ours.mini_mat_coding(limit=1), model=model, temperature=0.7, display="none")
    assert seen == [(0.0, 1024), (0.7, 1024)]


def test_a_search_that_fails_makes_an_error_which_is_tried_again(multihop: dict[str, str]):
    recorded = {**multihop, "recording": "web.sqlite"}
    Path("script.json").write_text(json.dumps(DRAWN))
    config = BenchConfig(suite="hotpotqa", model="script.json", engine="scripted", **recorded)
    bench(config, Path("some"), Pace(limit=2))

    with FakeServer(lambda asked: reply_to(asked.text, DRAWN)) as server:
        model = served(server)
        log = play("hotpotqa", model, recording_mode="replay", **recorded)
        errors = {str(sample.id): sample.error for sample in log.samples or []}
        assert (errors["a"], errors["b"]) == (None, None)
        assert "has no answer" in errors["c"].message
        assert trajectories(log)["c"].stop_reason is StopReason.TOOL_FAILED
        assert log.results.scores[0].metrics["mean"].value == 0.5  # of the two that came through
        bench(config, Path("all"))
        before = len(server.asked)
        done = inspect("eval-retry", log.location)
    assert done.returncode == 0, done.stdout
    [again] = {*Path(log.location).parent.glob("*.eval")} - {Path(log.location)}
    samples = read_eval_log(again).samples or []
    assert [(sample.id, sample.error) for sample in samples] == [
        ("a", None),
        ("b", None),
        ("c", None),
    ]
    assert len(server.asked) - before == 2


def test_a_server_of_openais_kind_plays_as_the_script_does():
    """Inspect takes the thought out of such a reply; the rules need it."""

    def stumbling(asked: Asked) -> str | Fault:
        return Fault(429) if asked.number == 1 else reply_to(asked.text, SIGNS)

    with FakeServer(stumbling) as server:
        model = served(server)
        log = play("mini_mat_coding", model, limit=4, mode="agent-append")
        assert_same(log, "mini-mat-coding", SIGNS, limit=4, mode="agent-append")
    sent = max((asked.body for asked in server.asked), key=lambda body: len(body["messages"]))
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["image_url", "text"]
    assert sent["messages"][1] == {"role": "assistant", "content": SIGNS[""]}
    assert (sent["temperature"], sent["max_tokens"]) == (0, 1024)


def test_a_thought_that_a_server_tells_apart_is_no_part_of_the_reply(multihop: dict[str, str]):
    said = {"message": {"content": "Sauvestre", "reasoning_content": "The tower is his."}}
    with FakeServer(lambda asked: said) as server:
        model = served(server)
        log = play("hotpotqa", model, data=multihop["data"], mode="direct", limit=1)
    assert [each.answer for each in trajectories(log).values()] == ["Sauvestre"]


def test_a_model_that_was_trained_here_plays_as_it_was_trained_to():
    Path("mine/model").mkdir(parents=True)
    Path("mine/config.toml").write_text(
        'env = "coding"\ncontext = "append"\ndata.source = "mini-mat-coding"\n'
        "rubric.answer = 1.0\ngrpo.max_turns = 2\ngrpo.max_new_tokens = 6\n"
    )
    log = play("mini_mat_coding", mock({"": SIGNS[""]}), limit=1, trained="mine")
    [trajectory] = trajectories(log).values()
    assert [len(turn.prompt.messages) for turn in trajectory.turns] == [1, 3]
    assert trajectory.turns[0].prompt.messages[0].text == "<query>What does the sign say?</query>"
    assert log.plan.config.max_tokens == 6


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("mini_mat_coding", {"mode": "fast"}, "-T mode=fast: input should be 'direct', 'cot'"),
        ("mini_mat_coding", {"shortcuts": "crop-box"}, "-T shortcuts: unknown; choose from mode"),
        ("mini_mat_coding", {"limit": 0}, "-T limit=0: input should be greater"),
        ("mini_mat_coding", {"mode": "rag"}, "-T mode rag: mini-mat-coding is not searched"),
        ("mini_mat_coding", {"trained": "x"}, "-T trained=x: no run of ours"),
        ("mini_mat_search", {"action": ["search", "fly"]}, "-T action=fly: input should be"),
        ("mini_mat_search", {"shortcut": "crop-box"}, "-T shortcut crop-box: only for agents"),
        ("mat_search", {}, "download MAT-Benchmark/MAT-Search.json .* by -T data"),
        ("mat_coding", {}, "download MAT-Benchmark/MAT-Coding.json"),
        ("musique", {}, "download musique/dev.jsonl"),
        ("bamboogle", {}, "download bamboogle/test.jsonl"),
        ("wiki2", {"data": "x"}, "-T data x: no such folder; download 2wikimultihopqa/dev.jsonl"),
        ("hotpotqa", {"data": "dev.jsonl"}, "-T corpus is not given"),
        ("bamboogle", {"data": "twice.jsonl", "mode": "cot"}, "task id 'a' occurs twice"),
        ("musique", {"prompt_file": "x"}, "-T prompt_file = 'x' cannot be read"),
    ],
)
def test_a_wrong_argument_is_told_in_the_words_of_inspect(
    task: str, arguments: dict[str, object], said: str, multihop: dict[str, str]
):
    Path("twice.jsonl").write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(ROWS[0])}\n")
    with pytest.raises(PrerequisiteError, match=said):
        getattr(ours, task)(**arguments)


def test_what_is_told_of_a_wrong_argument_has_its_brackets():
    with pytest.raises(PrerequisiteError) as caught:
        ours.wiki2(data="my[bold]folder")
    Console(file=(shown := io.StringIO()), width=200).print(caught.value.message)
    assert "-T data my[bold]folder: no such folder" in shown.getvalue()


def test_searches_end_with_their_budget(multihop: dict[str, str]):
    log = play("hotpotqa", mock(DRAWN), search_budget=1, limit=2, **multihop)
    assert sum(sample.error is not None for sample in log.samples or []) == 1


def test_prompts_and_turns_are_as_they_are_told():
    Path("prompt.txt").write_text("Look: {question}")
    log = play("mini_mat_coding", mock(SIGNS), limit=1, prompt_file="prompt.txt", max_turns=2)
    [trajectory] = trajectories(log).values()
    assert trajectory.turns[0].prompt.messages[0].text == "Look: What does the sign say?"
    assert len(trajectory.turns) == 2


def test_what_was_opened_for_a_task_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    task = ours.mini_mat_coding(limit=1)
    assert list(tmp_path.glob("arft-*"))
    del task
    gc.collect()
    assert not list(tmp_path.glob("arft-*"))


def test_inspect_finds_the_tasks_from_any_folder_and_refuses_without_a_traceback():
    [entry] = [each for each in entry_points(group="inspect_ai") if each.name == "visual_arft"]
    assert entry.load() is ours
    done = inspect("eval", "visual_arft/2wiki", "--model", "mockllm/model")
    assert done.returncode != 0
    told = " ".join((done.stdout + done.stderr).split())
    assert "download 2wikimultihopqa/dev.jsonl" in told
    assert "Traceback" not in told
