"""A system prompt or a template may come from a file: its text, not its path, is the setting."""

import pytest

from paft.config.hints import quoted
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation

TEXT = 'Be brief, please.\n(Short: "A", 你好 {x})'


def test_the_text_is_the_setting_and_its_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "system.txt").write_text(f"{TEXT}\n", encoding="utf-8")
    chat = "model.chat_template=true"
    config = compose_config(chat, "model.system_prompt=system.txt")
    assert config.model.system_prompt == TEXT
    (tmp_path / "elsewhere.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    moved = compose_config(chat, f"model.system_prompt={tmp_path / 'elsewhere.txt'}")
    assert moved.run_name == config.run_name
    (tmp_path / "system.txt").write_text("Another.", encoding="utf-8")
    assert compose_config(chat, "model.system_prompt=system.txt").run_name != config.run_name
    evaluation = compose_evaluation("dataset=piqa", "model=smollm2_135m", chat, "model.system_prompt=system.txt")
    assert evaluation.model.system_prompt == "Another."


def test_a_template_alike(tmp_path):
    (tmp_path / "mine.txt").write_text("{story}\n{question}\n{A} {B} {C} {D}\n", encoding="utf-8")
    config = compose_config("method=user", f"method.prompt={tmp_path / 'mine.txt'}")
    assert config.method.prompt == "{story}\n{question}\n{A} {B} {C} {D}"


def test_a_file_that_is_not_there_is_no_text():
    with pytest.raises(InputError, match=r"^model\.system_prompt=no\.txt: there is no such file; a value that ends in \.txt"):
        compose_config("model.chat_template=true", "model.system_prompt=no.txt")


@pytest.mark.parametrize(
    "text", ["Be brief, please.", "(short)", "你好", "It's", 'Say "x"', "a=b", "{x} y", "C:\\", '\\"', "[a"]
)
def test_what_an_error_tells_to_type_is_read_as_the_text(text):
    """With the shell's quotes taken off."""
    import shlex

    (typed,) = shlex.split(quoted(f"model.system_prompt={text}"))
    assert compose_config("model.chat_template=true", typed).model.system_prompt == text


def test_what_an_error_tells_to_type_for_labels_is_read_as_their_texts():
    import shlex

    (typed,) = shlex.split(quoted("dataset.labels=[a\\d, (b),好]"))
    assert compose_config("dataset=jsonl", "dataset.path=rows", typed).dataset.labels == ["a\\d", "(b)", "好"]


def test_null_is_no_choices():
    own = ["dataset=jsonl", "dataset.path=rows", "dataset.gold=answer", "dataset.answer=text", "dataset.metric=exact"]
    config = compose_config(*own, "dataset.choices=null")
    assert config.dataset.choices == [] and config.run_name == compose_config(*own).run_name
