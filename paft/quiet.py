"""What upstream libraries say about themselves, silenced."""

import logging
import warnings

import transformers


def quieten() -> None:
    """Silence what upstream libraries say about themselves at every start; anything unexpected still shows."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices found, tips, `max_epochs` reached
    transformers.utils.logging.disable_progress_bar()
    for message in (
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 with torch 2.13
        ".*is_gradient_checkpointing. is deprecated.*",  # PEFT 0.21 with transformers 5.23
        ".*your dataloader is not resumable.*",  # it is: its sampler starts where the trainer stands
        ".*Checkpoint directory .* exists and is not empty.*",  # it does when a run goes on
        ".*does not have many workers.*",  # rendering costs under 1% of a step
        ".*sync_dist=True.*",  # what ranks log of a validation is the same on all
    ):
        warnings.filterwarnings("ignore", message)
