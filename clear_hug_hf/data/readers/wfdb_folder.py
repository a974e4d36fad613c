"""Any folder of recordings without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import RecordReference, find_records, read_patient, record_name
from .base import RecordSource


class WfdbFolderSource(RecordSource):
    """
    A recording, or a folder of recordings that is searched recursively: WFDB records and files in other formats.

    The id of a recording is its path relative to the folder, for WFDB records without extension. Patients are those
    that files state, as digests. There are no labels.

    Args:
        path (`str` or `Path`): The folder, or one record.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; this source has no label set.
        patient_folders (`bool`, *optional*, defaults to `False`): Whether each folder of records is one patient, as in
            the PTB database. Otherwise patients are unknown, and random splits treat every recording as a different
            patient.
        title, license, citation (`str`, *optional*): Information about the dataset, for dataset and model cards.
        sampling_rate, lead_names, unit (*optional*): Of files that do not state them, see [`read_record`]. CSV and
            NumPy files of samples are read if the sampling rate is stated.

    Raises:
        FileNotFoundError: If there is neither a record nor a folder at the path.
        InputError: If the folder contains no records.
    """

    kind = "wfdb"

    def __init__(
        self,
        path: str | Path,
        label_set: str | None = None,
        keep_unlabeled: bool = False,
        patient_folders: bool = False,
        title: str | None = None,
        license: str | None = None,
        citation: str | None = None,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        unit: str | None = None,
    ):
        files = find_records(path, arrays=sampling_rate is not None)
        folder = Path(path) if Path(path).is_dir() else files[0].parent
        super().__init__(folder, label_set, keep_unlabeled, patient_folders=patient_folders)
        self.title, self.license, self.citation = title, license, citation
        self._description = self.describe_files(sampling_rate, lead_names, unit)
        self._files = {Path(record_name(file.relative_to(folder))).as_posix(): file for file in files}
        self._patients: dict[str, str | None] = {}
        for name, file in self._files.items():
            if patient_folders:
                self._patients[name] = Path(name).parent.as_posix()
            elif file.suffix != ".hea":
                self._patients[name] = read_patient(file)
        self.set_record_ids(sorted(self._files))

    def reference(self, index: int) -> RecordReference:
        name = self._record_ids[index]
        return RecordReference(
            self._files[name], record_id=name, patient_id=self._patients.get(name), description=self._description
        )
