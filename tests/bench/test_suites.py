from __future__ import annotations

import pytest

from visual_arft.bench.suites import MINI, SUITES, find_data
from visual_arft.errors import UserError

PUBLISHED = [name for name in SUITES if name not in MINI]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_suite_says_what_to_download(name):
    with pytest.raises(UserError, match=r"download .*(laolao77/MAT|FlashRAG).*by --data"):
        find_data(name, None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_is_found_wherever_in_a_folder_it_is_published(name, tmp_path):
    for place in SUITES[name].files:
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.touch()
        (tmp_path / f"other{path.suffix}").touch()
        assert find_data(name, tmp_path) == path
        path.unlink()


def test_the_only_file_of_its_sort_in_a_folder_is_it(tmp_path):
    (tmp_path / "cases.json").touch()
    (tmp_path / "notes.txt").touch()
    assert find_data("mat-coding", tmp_path) == tmp_path / "cases.json"


def test_a_folder_without_the_file_is_told_what_to_put_there(tmp_path):
    with pytest.raises(UserError, match=r"has no MAT-Search\.json.*download.*put it there"):
        find_data("mat-search", tmp_path)
    with pytest.raises(UserError, match="gone: no such folder; download"):
        find_data("hotpotqa", tmp_path / "gone")
