"""Training an adapter: the LightningModule, the fit, its callbacks and its checkpoints; a resumed run repeats exactly."""
