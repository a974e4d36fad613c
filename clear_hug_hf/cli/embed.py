"""`clear-hug embed`: a vector for each recording, as a Parquet table."""

from ..workflows.embed import EmbedArguments, embed
from ..workflows.shared import report_rejected, say


ARGUMENTS = (EmbedArguments,)
DESCRIPTION = """\
Encode recordings with any model. Writes a Parquet table with record_id, patient_id, start and end [s], and
embedding: the mean over the leads that are present. A recording longer than the model's window has one row
per window. If interrupted or killed, the same command continues with the missing records. Exits with status
1 if some records failed; they are listed at the end."""
EXAMPLES = """\
  clear-hug embed ward3/ --model runs/pretrained --output embeddings.parquet
  clear-hug embed ward.csv --model hf://ORG/NAME --output embeddings.parquet

in Python:
  table = pyarrow.parquet.read_table('embeddings.parquet')
  matrix = numpy.array(table['embedding'].to_pylist())   # windows x numbers, or windows x leads x numbers
"""


def run(arguments: EmbedArguments) -> int:
    """Run `embed` and return the exit status."""
    result = embed(arguments)
    size = " x ".join(map(str, result.shape))
    say(f"{arguments.output}: {result.num_records} record(s), {result.num_rows} window(s) of {size} numbers")
    return report_rejected(result.rejected)
