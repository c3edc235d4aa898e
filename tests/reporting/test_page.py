"""Pages of results in Markdown, and as one file of HTML."""

from paft.reporting.page import table, words, write_html


def test_a_text_of_somebodys_rows_ends_no_cell(tmp_path):
    lines = table(["label", "rows", "nothing"], [[words("yes|no"), "2", "-"], ["maybe", "3", "-"]])
    assert lines[:3] == ["| label | rows |", "|---|---:|", r"| yes\|no | 2 |"]
    write_html(tmp_path, ["# Labels", "", *lines])
    page = (tmp_path / "index.html").read_text()
    assert page.count("<td") == 4 and ">yes|no</td>" in page
