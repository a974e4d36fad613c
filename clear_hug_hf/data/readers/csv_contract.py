"""Format of CSV tables with recordings and labels, for help texts."""

CSV_CONTRACT = """\
A CSV table has one row per recording, a header line, commas, and UTF-8 text.

columns
  path         the recording: a WFDB record with or without extension, or a file in
               another format (MUSE XML, DICOM, SCP-ECG, ...); relative to the table's
               folder, or to the folder given as root, or absolute
  record_id    optional: a unique id (default: the path without its extension)
  patient_id   optional: all rows of a patient are in the same split; without it the
               patient that the file states, or else every row is a different patient
  split        optional: train, validation (or val) or test, in every row or in none
  report       optional: text report of the recording, for models that read text
  others       labels if you name them as label columns, otherwise metadata

label columns are one of
  multi-label classification    one column per label: 1 yes, 0 no, empty unknown
  single-label classification   one column of class names or integers, empty unknown
  regression                    one or more columns of numbers, empty unknown
The problem type is detected from the values: columns of 0, 1 and empty are multi-label,
text or integers in a single column are single-label, and decimal numbers are regression.
Set the problem type to override this; mixtures are refused.
`clear-hug finetune` and `benchmark` support multi-label classification only: for
classes, add a column of 1 and 0 for each.

example, with the label columns afib and lvh
  path,patient_id,split,afib,lvh
  ward3/0001.hea,p17,train,1,0
  ward3/0002.hea,p17,train,0,
  ward5/0001,p23,test,0,1
"""
"""Format of the table; `clear-hug prepare --help` prints it."""
