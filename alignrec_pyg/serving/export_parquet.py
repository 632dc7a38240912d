"""Recommendations as a parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from alignrec_pyg.atomic import atomic_path
from alignrec_pyg.checks import require_package


def write_parquet(
    path: str | Path, frames: Iterable[pd.DataFrame], ids: Mapping[str, np.ndarray]
) -> int:
    """Writes frames of equal columns to a parquet file, a row group each, and counts the rows.

    The file is written atomically. Columns of ``ids`` have the type of all these ids, since those
    of a single frame may have another one.

    Raises:
        ImportError: If pyarrow is not installed.
        OSError: If the file cannot be written.
    """
    arrow = require_package("pyarrow", "to_parquet", "pyarrow", extra="serving")
    parquet = require_package("pyarrow.parquet", "to_parquet", "pyarrow", extra="serving")
    types = {name: arrow.array(values).type for name, values in ids.items()}
    writer, count = None, 0
    with atomic_path(Path(path)) as partial:
        try:
            for frame in frames:
                if writer is None:
                    found = arrow.Schema.from_pandas(frame, preserve_index=False)
                    schema = arrow.schema(
                        [(field.name, types.get(field.name, field.type)) for field in found]
                    )
                    writer = parquet.ParquetWriter(partial, schema)
                writer.write_table(arrow.Table.from_pandas(frame, schema, preserve_index=False))
                count += len(frame)
        finally:
            if writer is not None:
                writer.close()
    return count
