"""A metric module for the library `evaluate`: `evaluate.load(clear_hug_hf.evaluation.METRIC_MODULE)`."""
