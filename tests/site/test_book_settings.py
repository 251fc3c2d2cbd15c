"""The settings agree with the course: every chapter in its place, numbered as it is named."""

import re
from pathlib import Path
from types import SimpleNamespace

import build
import offline_book
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "course"
CHAPTERS = sorted(path.stem for path in COURSE.glob("[0-9][0-9]_*.ipynb"))
TOC = yaml.safe_load((ROOT / "jupyter_book" / "_toc.yml").read_text(encoding="utf-8"))
LANDING = (COURSE / "index.md").read_text(encoding="utf-8")
CARD = r"\{grid-item-card\} (\[?)(\d+) · .*?\n(.*?)\n\n"
CARDS = [(number, link, rest) for link, number, rest in re.findall(CARD, LANDING, flags=re.S)]


def test_the_table_of_contents_lists_the_chapters_that_exist_in_order():
    entries = [entry for part in TOC["parts"] for entry in part["chapters"]]
    listed = [entry for entry in entries if re.match(r"\d\d_", entry["file"])]
    assert [entry["file"] for entry in listed] == CHAPTERS
    for entry in listed:
        assert entry["title"].startswith(f"{int(entry['file'][:2])} · ")


def test_the_landing_page_shows_all_thirteen_and_links_those_that_exist():
    assert [int(number) for number, _, _ in CARDS] == list(range(1, 14))
    linked = re.findall(r"grid-item-card\} \[[^]]+\]\((\d\d_\w+)\.ipynb\)", LANDING)
    assert linked == CHAPTERS
    for number, link, options in CARDS:
        exists = any(chapter.startswith(f"{int(number):02d}_") for chapter in CHAPTERS)
        assert (":class-card: complete" if exists else ":class-card: planned") in options
        assert bool(link) == exists
        assert ":img-alt: " in options


def test_numbers_start_anew_in_each_chapter_and_carry_its_number():
    numbers = {
        "07_lora": {"displaymath": {"eq-b": (9,), "eq-a": (8,)}, "theorem": {"thm": (4,)}},
        "index": {"figure": {"fig": (1,)}},
    }
    environment = SimpleNamespace(toc_fignumbers=numbers)
    assert list(offline_book.number_by_chapter(None, environment)) == []
    assert numbers["07_lora"] == {
        "displaymath": {"eq-a": (7, 1), "eq-b": (7, 2)},
        "theorem": {"thm": (7, 1)},
    }
    assert numbers["index"] == {"figure": {"fig": (1,)}}


@pytest.mark.parametrize(("url", "shown"), [("", False), ("https://example.org/a/course", True)])
def test_one_setting_brings_the_buttons_that_lead_to_the_repository(
    monkeypatch, tmp_path, url, shown
):
    config = tmp_path / "_config.yml"
    config.write_text(yaml.safe_dump({"repository": {"url": url}}), encoding="utf-8")
    monkeypatch.setattr(build, "CONFIG", config)
    options = build.repository_buttons()
    assert options["use_repository_button"] is options["use_issues_button"] is shown
    assert ("launch_buttons" in options) is not shown
