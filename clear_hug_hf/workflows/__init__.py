"""What the verbs of the command line do: dataclasses in, dataclasses out."""
