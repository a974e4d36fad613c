"""Predictions and embeddings of recordings and pictures, shared by the command line, pipeline and evaluation."""
