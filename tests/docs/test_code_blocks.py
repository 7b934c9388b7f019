"""Every Python block of the README and the docs runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.code_blocks import Block, PageError, python_blocks, run_page

ROOT = Path(__file__).parents[2]


def pages() -> list[str]:
    found = [ROOT / "README.md", ROOT / "example_project/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [page.relative_to(ROOT).as_posix() for page in found if page.exists()]
    return [name for name in names if not name.startswith("docs/_build/")]


@pytest.mark.parametrize("name", pages())
def test_the_pages_code_runs(name: str, tmp_path: Path) -> None:
    wrong = run_page(ROOT / name, name, tmp_path)
    if wrong:
        pytest.fail(wrong, pytrace=False)


# -- Finding blocks


@pytest.mark.parametrize(
    "page",
    [
        "Text\n\n```python\nx = 1\n```\n",
        "Text\n\n```py\nx = 1\n```\n",
        "Text\n\n~~~ python title=x.py\nx = 1\n~~~\n",
        "Text\n\n````python\nx = 1\n````\n",
        "- a list:\n\n  ```python\n  x = 1\n  ```\n",
        "Text\n\n```{code-block} python\nx = 1\n```\n",
        ":::{note}\n\n```python\nx = 1\n```\n:::\n",
        "````{note}\n\n```python\nx = 1\n```\n````\n",
        "Text\n\n```python\nx = 1\n",
    ],
)
def test_a_block_is_found(page: str) -> None:
    assert python_blocks(page) == [Block(3, "x = 1\n")]


@pytest.mark.parametrize(
    "page",
    [
        "```\npython\n```\n",
        "```console\n$ python x.py\n```\n",
        "```toml\n[x]\n```\n",
        "`python` and ```python``` in a line\n",
        "```{toctree}\npython\n```\n",
    ],
)
def test_what_is_no_python_block_is_not_found(page: str) -> None:
    assert python_blocks(page) == []


def test_blocks_are_found_in_order_and_around_others() -> None:
    page = "```python\na\n```\n```console\n$ b\n```\n````{tip}\n```python\nc\n```\n````\n```python\nd\n```\n"
    assert [block.code for block in python_blocks(page)] == ["a\n", "c\n", "d\n"]


def test_a_directives_options_are_no_code() -> None:
    page = "```{code-block} python\n:caption: proj.py\n:emphasize-lines: 1\n\nx = 1\n```\n"
    assert python_blocks(page)[0].code.split() == ["x", "=", "1"]
    assert python_blocks(page)[0].code.splitlines()[3] == "x = 1"


def test_a_block_is_left_out_with_a_reason() -> None:
    page = "<!-- not run: needs a bank -->\n```python\npay()\n```\n\n```python\nx = 1\n```\n"
    assert [block.not_run for block in python_blocks(page)] == ["needs a bank", None]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- not run -->\n```python\npay()\n```\n", "page:1: say why"),
        ("<!-- not run: -->\n```python\npay()\n```\n", "page:1: say why"),
        ("<!-- not run: a bank -->\n\nText\n\n```python\npay()\n```\n", "page:1: no Python block follows"),
        ("<!-- not run: a bank -->\n```console\n$ pay\n```\n", "page:1: no Python block follows"),
        ("```python\nx\n```\n<!-- not run: a bank -->\n", "page:4: no Python block follows"),
        ("> ```python\n> x = 1\n> ```\n", "page:1: a Python block that can't be run"),
        ("- ```python\n  x = 1\n  ```\n", "page:1: a Python block that can't be run"),
        ("```markdown\n~~~python\nx = 1\n~~~\n```\n", "page:2: a Python block that can't be run"),
        ("```pycon\n>>> 1\n1\n```\n", "page:1: a session with prompts"),
    ],
)
def test_a_page_that_would_hide_a_block_is_refused(page: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        python_blocks(page)


# -- Running them


def run(text: str, tmp_path: Path) -> str | None:
    page = tmp_path / "page.md"
    page.write_text(text)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return run_page(page, "page.md", scratch)


def test_a_pages_blocks_are_one_program_in_an_empty_directory(tmp_path: Path) -> None:
    text = (
        "```python\nimport os, pickle\nassert os.listdir() == []\nclass Own(Exception): ...\n```\n"
        "<!-- not run: never ends -->\n```python\nwhile True: pass\n```\n"
        "```python\nassert __name__ == '__main__'\nassert type(pickle.loads(pickle.dumps(Own()))) is Own\n```\n"
    )
    assert run(text, tmp_path) is None


def test_an_error_is_shown_with_its_line_in_the_page(tmp_path: Path) -> None:
    wrong = run("# Title\n\n```python\nx = 1\n```\n\n```python\nassert x\nassert x == 2\n```\n", tmp_path)
    assert wrong is not None
    assert wrong.startswith("page.md: ended with code 1 in the block at line 7\n")
    assert 'page.md", line 9' in wrong
    assert "AssertionError" in wrong


def test_a_block_that_ends_the_process_hides_none_after_it(tmp_path: Path) -> None:
    wrong = run("```python\nimport os\nos._exit(0)\n```\n\n```python\nx\n```\n", tmp_path)
    assert wrong == "page.md: ended with code 0 in the block at line 1\n"
