"""Pre-training on Accelerate and fine-tuning on the Trainer of transformers."""
