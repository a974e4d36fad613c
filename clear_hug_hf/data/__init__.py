"""
Recordings on disk, simulated or labelled by a published set, to a `datasets.Dataset` that the models train on.

Readers give recordings (or references that read one when asked), `prepare` cleans them and finds their beats once, and
the collator cuts the beats when a batch is made.
"""
