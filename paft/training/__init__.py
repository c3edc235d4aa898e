"""The LightningModule, and fitting an adapter with it so that it can be resumed exactly."""
