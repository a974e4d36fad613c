"""
Load recordings from disk, published datasets or a simulator into a `datasets.Dataset` for training and evaluation.

Readers return references to recordings, `prepare` cleans the recordings and detects their beats once, and the collator
cuts the beats when it builds a batch.
"""
