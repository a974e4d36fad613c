"""One engine for predictions and embeddings: a file, a recording or a picture to what a model says of it."""
