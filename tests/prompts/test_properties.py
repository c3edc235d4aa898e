"""Random text in fields and templates: never a crash, nothing evaluated, no field shows in another's place."""

from hypothesis import given, settings
from hypothesis import strategies as st

from paft.pools.replies import templates_in
from paft.pools.screening import judge
from paft.prompts import PromptTemplate, TemplateError
from paft.prompts.perturb import KINDS, perturb
from paft.prompts.pool import Form, PromptPool

NASTY = st.sampled_from(
    [
        *(
            "{",
            "}",
            "{{",
            "}}",
            "{0}",
            "{A}",
            "{question}",
            "{A.__class__}",
            "{A!r}",
            "{A:>99}",
            "{__import__('os')}",
            "%s",
            "${A}",
        ),
        *("%(A)s", "`id`", "\\", "\\n", "\u202e", "\u200f", "🙂", "\x00", "\x1b[31m", "'", '"', "<b>", "\ud800"),
    ]
)
TEXT = st.lists(st.one_of(st.text(max_size=12), NASTY), max_size=6).map("".join)
FORM = Form(frozenset({"question"}), frozenset({"A", "B"}), "letter")


@given(before=TEXT, between=TEXT, after=TEXT, question=TEXT, a=TEXT)
def test_values_come_through_untouched_and_in_their_own_place(before, between, after, question, a):
    def escaped(text):
        return text.replace("{", "{{").replace("}", "}}")

    text = f"{escaped(before)}{{question}}{escaped(between)}{{A}}{escaped(after)}"
    try:
        template = PromptTemplate(text, "x")
    except TemplateError:
        return  # an empty one, a control character, a literal backslash-n
    assert template.render({"question": question, "A": a}) == f"{before}{question}{between}{a}{after}"


@given(text=TEXT, value=TEXT)
def test_any_text_is_a_template_or_refused_with_a_reason(text, value):
    try:
        template = PromptTemplate(text, "x")
    except TemplateError as error:
        assert str(error)
        return
    rendered = template.render(dict.fromkeys(template.fields, value))
    assert rendered.count(value) >= len(template.field_order) or not value


@given(text=TEXT)
def test_screening_never_crashes(text):
    verdict = judge(text, FORM, 100)
    assert verdict.reason is None or verdict.detail


@given(reply=TEXT)
def test_no_reply_crashes_its_reading(reply):
    assert all(isinstance(text, str) for text in templates_in(reply))


@settings(max_examples=50)
@given(before=TEXT, after=TEXT, kind=st.sampled_from(KINDS), seed=st.integers(0, 9))
def test_perturbing_keeps_a_template_a_template(before, after, kind, seed):
    try:
        template = PromptTemplate(f"{before} Think well. {{question}}\nA. {{A}}\nB. {{B}}\n{after} Answer:", "x")
    except TemplateError:
        return
    pool = PromptPool("p", (template,), "letter", "shown")
    (found,) = perturb(pool, [kind, "distractor"], 1, seed)
    assert sorted(found.template.field_order) == sorted(template.field_order)
