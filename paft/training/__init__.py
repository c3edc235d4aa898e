"""Training an adapter, or all weights: LightningModule, fit, callbacks and checkpoints; a resumed run repeats exactly."""
