from __future__ import annotations

import base64
import re

import pytest

from visual_arft.errors import UserError
from visual_arft.viewer.pages import export, index_page, trajectory_page

ELSEWHERE = re.compile(r"""(?:src|href)=["'](?!data:image/png;base64,|[\w./]+\.html["'])""")


def recorded(store, *trajectories):
    for trajectory in trajectories:
        store.append([trajectory], {"phase": "trained", "reward": 0.5})
    return store


def test_nothing_a_model_or_a_tool_wrote_becomes_markup(store, solved, failed):
    recorded(store, solved, failed)
    pages = [index_page(store), trajectory_page(store, 0), trajectory_page(store, 1)]
    for page in pages:
        assert page is not None
        assert "<script>alert" not in page
    for name in ("question", "thought", "code", "result", "error", "answer", "prompt"):
        assert f"&lt;script&gt;alert(&#39;{name}&#39;)&lt;/script&gt;" in pages[1]
    for name in ("reason", "reply"):
        assert f"&lt;script&gt;alert(&#39;{name}&#39;)&lt;/script&gt;" in pages[2]


def test_pages_ask_for_nothing_from_elsewhere(store, solved):
    recorded(store, solved)
    for page in (index_page(store), trajectory_page(store, 0)):
        assert "default-src 'none'; img-src data:" in page
        assert not ELSEWHERE.search(page)
    assert "script-src 'none'" in trajectory_page(store, 0)


def test_images_stand_in_the_page_as_they_were_stored(store, solved):
    recorded(store, solved)
    page = trajectory_page(store, 0)
    for image in (*solved.task.images, *solved.turns[0].result.images):
        assert base64.b64encode(store.images.read(image)).decode() in page


def test_a_missing_picture_is_named(store, solved):
    recorded(store, solved)
    (store.folder / "images" / solved.task.images[0].sha256).unlink()
    with pytest.raises(UserError, match="the picture is missing"):
        trajectory_page(store, 0)


def test_an_exported_run_is_a_list_and_a_page_for_each_episode(store, solved, failed, tmp_path):
    recorded(store, solved, failed, solved)
    store.append_metrics({"step": 1, "reward": 0.1})
    store.append_metrics({"step": 2, "reward": 0.2})
    first = export(store.folder, tmp_path / "out")
    listed = first.read_text(encoding="utf-8")
    links = re.findall(r'href="(episodes/\d+\.html)"', listed)
    assert links == [f"episodes/{number:06}.html" for number in range(3)]
    assert all((first.parent / link).is_file() for link in links)
    assert listed.count('data-stop="malformed" data-kind="dark" data-score="wrong"') == 1
    assert listed.count('data-stop="answered" data-kind="dark" data-score="right"') == 2
    assert "<polyline" in listed
    pages = [(first.parent / link).read_text(encoding="utf-8") for link in links]
    assert [(">previous<" in page, ">next<" in page) for page in pages] == [
        (False, True),
        (True, True),
        (True, False),
    ]


def test_a_step_task_shows_the_turns_it_was_given(store, solved):
    given = solved.turns[0]
    task = solved.task.model_copy(update={"prefix": (given,), "expected": solved.turns[1].action})
    step = solved.model_copy(update={"task": task, "turns": solved.turns[1:]})
    page = trajectory_page(recorded(store, step), 0)
    assert page.index("<h3>given</h3>") < page.index("<h3>turn 1</h3>")


def test_a_place_that_cannot_be_written_is_named(store, solved, tmp_path):
    recorded(store, solved)
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out: cannot be written"):
        export(store.folder, tmp_path / "out")
