"""The built-in data sets, one file each; conf/dataset/NAME.yaml says where the rows of each come from."""

from paft.data.tasks.gsm8k import GSM8K
from paft.data.tasks.hellaswag import HELLASWAG
from paft.data.tasks.piqa import PIQA
from paft.data.tasks.race import RACE, RACE_HIGH, RACE_MIDDLE
from paft.data.tasks.story_facts import STORY_FACTS
from paft.data.tasks.winogrande import WINOGRANDE
from paft.data.tasks.xstorycloze import IN_OTHER_LANGUAGES, XSTORYCLOZE

_TASKS = (STORY_FACTS, HELLASWAG, PIQA, WINOGRANDE, RACE, RACE_MIDDLE, RACE_HIGH, GSM8K, XSTORYCLOZE, *IN_OTHER_LANGUAGES)
BUILT_IN = {task.name: task for task in _TASKS}
