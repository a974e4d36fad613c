"""What brings weights in and takes models out: converters from released checkpoints, publishing, the pipeline."""
