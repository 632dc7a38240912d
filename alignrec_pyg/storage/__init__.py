"""Files that are checked when they are read, and removed only where they are known to be ours.

- **Checked:** tensors are stored as safetensors (no pickle). A manifest, in JSON, lists its files
  with their SHA-256, and has a hash of its own content and the version of its format. It is
  written last, so an interrupted write leaves the previous files complete.
- **Removed, once the new files are complete:** regular files that an intact manifest lists, if
  their names and contents are still as listed. Everything else stays: it may be the user's.
"""

from alignrec_pyg.storage.cache import load_tensors, remove_cache, store_tensors
from alignrec_pyg.storage.listed_files import (
    clear_replaced,
    files_of,
    pending,
    read_with_files,
    remove_listed,
    remove_with_files,
    write_with_files,
)
from alignrec_pyg.storage.manifest import read_body, read_manifest, write_manifest
from alignrec_pyg.storage.single_files import (
    CheckpointError,
    check_sha256,
    file_sha256,
    read_tensors,
    write_array,
    write_records,
    write_tensors,
    write_text,
)

__all__ = [
    "CheckpointError",
    "check_sha256",
    "clear_replaced",
    "file_sha256",
    "files_of",
    "load_tensors",
    "pending",
    "read_body",
    "read_manifest",
    "read_tensors",
    "read_with_files",
    "remove_cache",
    "remove_listed",
    "remove_with_files",
    "store_tensors",
    "write_array",
    "write_manifest",
    "write_records",
    "write_tensors",
    "write_text",
    "write_with_files",
]
