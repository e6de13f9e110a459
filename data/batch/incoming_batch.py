"""An incoming batch: the table, remarks and hashes of a folder of labelled scans, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from data import identifiers
from data.batch import folder_files, metadata_table
from data.batch.examine_scan import scan_sha256
from data.batch.folder_files import FolderState
from data.core_types import Task
from lineage import fingerprint
from lineage.errors import Fault


@dataclass(frozen=True)
class IncomingBatch:
    """A batch that is not judged yet. Later steps use these values and do not read the folder's table again.

    `table` is the metadata.csv (see `metadata_table.read_metadata`); do not change it. `remarks` say what was ignored
    in the folder. `scan_hashes` has the SHA-256 of each scan by its file name. `digest` identifies the content.
    `state` is the state of the folder's files before they were read.
    """

    name: str
    folder: Path
    task: Task
    digest: str
    table: pd.DataFrame = field(repr=False, compare=False)  # it names patients: no message and no log contains it
    remarks: tuple[str, ...] = field(repr=False)
    scan_hashes: Mapping[str, str] = field(repr=False)
    state: FolderState

    @property
    def is_correction(self) -> bool:
        """Whether the batch corrects labels of admitted scans."""
        return metadata_table.is_correction_batch(self.table)

    def is_unchanged(self) -> bool:
        """Whether no file of the folder was added, removed or changed since the batch was read."""
        try:
            return self.folder.is_dir() and folder_files.folder_state(self.folder) == self.state
        except Fault:
            return False


def read_incoming_batch(folder: Path, tasks: Mapping[str, Task]) -> IncomingBatch:
    """Read the table of a folder and hash its scans. `tasks` are those of the workspace, by name.

    Fault if the folder is no batch of one of the tasks, or if its name identifies one of its patients.
    """
    if not folder.is_dir():
        raise Fault("the batch folder does not exist; name a folder of the inbox")
    state = folder_files.folder_state(folder)
    table, remarks = metadata_table.read_with_remarks(folder)
    name, task_name = folder.resolve().name, str(table["task"].iloc[0])
    if task_name not in tasks:  # not quoted: a row shifted by one column would put a patient into the message
        raise Fault(f"{name}: the task in its metadata.csv is none of {', '.join(tasks)}; correct the column")
    identities = {str(text) for column in ("patient_id", "group") for text in table[column].unique()}
    if any(
        identifiers.contains_secret(name, identifiers.secrets_of_row({"patient_id": identity}), words=False)
        for identity in identities
    ):
        raise Fault("the folder's name holds the name or number of one of its patients; rename it")
    file_names = [] if metadata_table.is_correction_batch(table) else dict.fromkeys(table["file_name"])
    scan_hashes = {file_name: scan_sha256(folder / file_name) for file_name in file_names}
    digest = digest_files(folder, table, scan_hashes)
    return IncomingBatch(name, folder, tasks[task_name], digest, table, tuple(remarks), scan_hashes, state)


def digest_files(folder: Path, table: pd.DataFrame, scan_hashes: Mapping[str, str]) -> str:
    """One hash over metadata.csv and every file in it. A batch keeps its digest when its folder is renamed."""
    masks = [] if metadata_table.is_correction_batch(table) else sorted(set(table["mask"]) - {""})
    files = {**scan_hashes, **{name: fingerprint.file_sha256(folder / name) for name in masks}}
    return fingerprint.digest({"metadata": fingerprint.file_sha256(folder / metadata_table.NAME), "files": files})
