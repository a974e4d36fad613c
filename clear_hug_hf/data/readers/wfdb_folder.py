"""Any folder of WFDB records without labels."""

from __future__ import annotations

from pathlib import Path

from ..records import RecordReference, find_records
from .base import RecordSource


class WfdbFolderSource(RecordSource):
    """
    A WFDB record, or a folder of WFDB records that is searched recursively.

    The id of a recording is its path relative to the folder, without extension. There are no labels.

    Args:
        path (`str` or `Path`): The folder, or one record.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; this source has no label set.
        patient_folders (`bool`, *optional*, defaults to `False`): Whether each folder of records is one patient, as in
            the PTB database. Otherwise patients are unknown, and random splits treat every recording as a different
            patient.
        title, license, citation (`str`, *optional*): Information about the dataset, for dataset and model cards.

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
    ):
        headers = find_records(path)
        folder = Path(path) if Path(path).is_dir() else headers[0].parent
        super().__init__(folder, label_set, keep_unlabeled, patient_folders=patient_folders)
        self.title, self.license, self.citation = title, license, citation
        self._patient_folders = patient_folders
        self.set_record_ids(sorted(header.relative_to(folder).with_suffix("").as_posix() for header in headers))

    def reference(self, index: int) -> RecordReference:
        name = self._record_ids[index]
        patient = Path(name).parent.as_posix() if self._patient_folders else None
        return RecordReference(self.path / f"{name}.hea", record_id=name, patient_id=patient)
