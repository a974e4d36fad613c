"""The text that explains CSV tables of recordings and labels."""

CSV_CONTRACT = """\
A CSV table has one row per recording, a header line, commas, and UTF-8 text.

columns
  path         the recording: a WFDB record with or without extension; relative to
               the table's folder, or to the folder given as root, or absolute
  record_id    optional: a name that no other row has (default: the path, without
               its extension)
  patient_id   optional: rows of one patient never end up on two sides of a split;
               without it every row counts as a patient of its own
  split        optional: train, validation (or val) or test, in every row or in none
  report       optional: what was written about the recording, for models that read text
  others       labels if you name them as label columns; the rest is kept as metadata

label columns are one of
  several labels at once   one column per label: 1 yes, 0 no, empty unknown
  one of several classes   one column of names or whole numbers: the class, empty unknown
  numbers to predict       one or more columns of numbers, empty unknown
The kind is found from the values: 0, 1 and empty only are labels; text, or whole
numbers in a single column, are classes; numbers with decimals are to be predicted.
Give the problem type where that is not what you mean; a mixture is refused.
`clear-hug finetune` and `benchmark` train labels of 1 and 0: for classes, make a
column for each.

example, with the label columns afib and lvh
  path,patient_id,split,afib,lvh
  ward3/0001.hea,p17,train,1,0
  ward3/0002.hea,p17,train,0,
  ward5/0001,p23,test,0,1
"""
"""What a table of your own must look like; `clear-hug prepare --help` prints it."""
