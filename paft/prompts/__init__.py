"""Prompt templates, prompt pools, and the schedule and sampler that draw from them. Imports neither torch nor data sets."""

from paft.prompts.find import find_pool
from paft.prompts.pool import PromptPool, load_pool, shipped_pool_path
from paft.prompts.schedule import Schedule, ScheduleUnit
from paft.prompts.template import PromptTemplate, TemplateError

__all__ = [
    "PromptPool",
    "PromptTemplate",
    "Schedule",
    "ScheduleUnit",
    "TemplateError",
    "find_pool",
    "load_pool",
    "shipped_pool_path",
]
