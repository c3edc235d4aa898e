"""What a W&B run holds of the results, logged offline."""

import json

import wandb
from lightning.pytorch.loggers import WandbLogger

from paft.reporting.wandb import log_results
from tests.reporting.test_report import written


def test_the_run_holds_summary_table_figure_and_report(tmp_path):
    results, page, _ = written(tmp_path, generated=True)
    run = wandb.init(mode="offline", dir=tmp_path, project="paft", settings=wandb.Settings(silent=True))
    log_results(WandbLogger(experiment=run), results, tmp_path)
    summary = dict(run.summary)
    run.finish()
    mean = results["uncertainty"]["mean"]
    assert summary["robustness/mean"] == results["robustness"]["mean"] and summary["con/worst"] == 0.25
    assert (summary["uncertainty/mean/low"], summary["uncertainty/mean/high"]) == (mean["low"], mean["high"])
    media = next(tmp_path.glob("wandb/offline-run-*/files/media"))
    assert next(media.glob("html/report*.html")).read_text(encoding="utf-8") == page
    assert len(list(media.glob("images/distribution*.png"))) == 1
    table = json.loads(next(media.glob("table/per_prompt*.json")).read_text())
    assert table["columns"] == ["prompt_id", "accuracy", "n", "output_tokens", "seconds"]
    assert table["data"][0] == ["p00", 0.0, 12.0, 3.0, 1.5]
