"""What brings weights in and takes models out: converters from released checkpoints, export, publishing."""
