"""Which tokens of a rendering are the template's own: its words and layout, not what its fields hold."""

from collections.abc import Sequence

from paft.data.encode import Encoder
from paft.data.render import fitted, render, render_with_shots
from paft.data.tasks.base import Example
from paft.prompts import PromptTemplate


def of_template(
    encoder: Encoder, template: PromptTemplate, example: Example, shots: Sequence[Example], context: Sequence[int]
) -> list[bool]:
    """Return of each token of a context whether it is the template's own.

    Tokens with a character of a field are not, nor is what stands before the rendering (shots, the head of a chat) or behind.
    Where a chat template changes the prompt, none is.

    Args:
        context: the tokens of the example's rendering, perhaps without its beginning; by a tokenizer that knows the place of
            each token in the text (a fast one).
    """
    text = encoder.before_the_answer(render_with_shots(template, example, shots, encoder.answer, encoder.space))
    own = _own_characters(text, template, example)
    ids, places = encoder.tokenize_with_places(text)
    marks = [end > start and all(own[start:end]) for start, end in places]
    if len(context) > len(marks):  # an empty prompt
        return [False] * len(context)
    # A context that was cut off ends as the whole one does; its first tokens may be those before the rendering.
    kept = len(ids) - len(context)
    return [marks[kept + i] and ids[kept + i] == token for i, token in enumerate(context)]


def _own_characters(text: str, template: PromptTemplate, example: Example) -> list[bool]:
    """Return of each character of a text whether it is of the template, in the last rendering of the example in the text."""
    own = [False] * len(text)
    rendering = render(template, example)
    place = text.rfind(rendering.strip())
    if place < 0:
        return own
    first = place  # white space before it is not marked: a chat template may have taken it away
    place -= len(rendering) - len(rendering.lstrip())
    for literal, name in fitted(template, example).parts:
        for i in range(max(place, first), min(place + len(literal), len(text))):
            own[i] = True
        place += len(literal) + (0 if name is None else len(example.fields[name]))
    return own
