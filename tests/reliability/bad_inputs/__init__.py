"""The bad inputs of all commands, a table for each kind of mistake; ROWS is all of them."""

from tests.reliability.bad_inputs.case import cases
from tests.reliability.bad_inputs.config import CONFIG, REPEATED, SWEEPS
from tests.reliability.bad_inputs.evaluation import EVALUATION, WITH_MODEL
from tests.reliability.bad_inputs.models import GGUF_FILES, MODELS
from tests.reliability.bad_inputs.pools import POOLS
from tests.reliability.bad_inputs.prompts import PROMPTS
from tests.reliability.bad_inputs.rows import DATA, METRIC
from tests.reliability.bad_inputs.runs import COMPARE, MERGE, OTHERS, POWER, REPORTS, SORTED_REPORTS

ROWS = [
    *cases("train.py", [*CONFIG, *DATA, *METRIC, *PROMPTS, *REPEATED, *GGUF_FILES]),
    *SWEEPS,
    *cases("train.py", MODELS, "libraries"),
    *cases("evaluate.py", EVALUATION),
    *WITH_MODEL,
    *cases("-m paft pools", POOLS),
    *cases("-m paft merge", MERGE),
    *cases("-m paft compare", COMPARE),
    *cases("-m paft power", POWER),
    *cases("-m paft report", [*REPORTS, *SORTED_REPORTS]),
    *cases("-m experiments.paper", REPORTS),
    *OTHERS,
]
