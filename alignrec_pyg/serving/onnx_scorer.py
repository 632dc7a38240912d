"""Export of a model's scores to an ONNX file, which runs without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alignrec_pyg import __version__ as version
from alignrec_pyg.atomic import atomic_path
from alignrec_pyg.checks import check_integer, require_package

_OPSET = 17
_IR_VERSION = 8  # read by every onnxruntime since 1.13
_MAX_BYTES = 2**31 - 2**20  # protobuf files are limited to 2 GiB


def write_scorer(
    path: str | Path,
    user_x: Tensor,
    item_x: Tensor,
    user_id: np.ndarray,
    item_id: np.ndarray,
    k: int,
) -> None:
    """Writes what :meth:`~alignrec_pyg.Server.to_onnx` describes."""
    k = check_integer("k", k, 1, len(item_x))
    onnx = require_package("onnx", "to_onnx", "onnx", extra="serving")
    users, items = (x.cpu().float().numpy() for x in (user_x, item_x))
    if users.nbytes + items.nbytes > _MAX_BYTES:
        raise ValueError(
            f"'model' needs vectors of at most 2 GiB for an ONNX file (got "
            f"{(users.nbytes + items.nbytes) / 2**30:.1f} GiB): use to_faiss"
        )
    scorer = onnx.helper.make_model(
        _graph(onnx, users, items, k),
        producer_name="alignrec_pyg",
        producer_version=version,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    for name, ids in (("user_id", user_id), ("item_id", item_id)):
        entry = scorer.metadata_props.add()
        entry.key, entry.value = name, json.dumps(ids.tolist())
    onnx.checker.check_model(scorer)
    with atomic_path(Path(path)) as partial:
        partial.write_bytes(scorer.SerializeToString())


def _graph(onnx: Any, user_x: np.ndarray, item_x: np.ndarray, k: int) -> Any:
    make, types = onnx.helper, onnx.TensorProto
    constants = {
        "user_x": user_x,
        "item_xt": np.ascontiguousarray(item_x.T),
        "pads": np.array([0, 0, 0, 1], dtype=np.int64),
        "nothing": np.array(-np.inf, dtype=np.float32),
        "num_items": np.array([item_x.shape[0]], dtype=np.int64),
        "zero": np.array([0], dtype=np.int64),
        "columns": np.array([1], dtype=np.int64),
        "k": np.array([k], dtype=np.int64),
    }
    nodes = [
        make.make_node("Gather", ["user_x", "user"], ["asked_x"], axis=0),
        make.make_node("MatMul", ["asked_x", "item_xt"], ["scores"]),
        # an additional column for the padding of 'exclude'
        make.make_node("Pad", ["scores", "pads", "nothing"], ["padded"]),
        make.make_node("Shape", ["exclude"], ["exclude_shape"]),
        make.make_node("Expand", ["nothing", "exclude_shape"], ["minus_infinity"]),
        make.make_node(
            "ScatterElements", ["padded", "exclude", "minus_infinity"], ["masked"], axis=1
        ),
        make.make_node("Slice", ["masked", "zero", "num_items", "columns"], ["allowed"]),
        make.make_node("TopK", ["allowed", "k"], ["score", "item"], axis=1),
    ]
    return make.make_graph(
        nodes,
        "recommend",
        [
            make.make_tensor_value_info("user", types.INT64, ["B"]),
            make.make_tensor_value_info("exclude", types.INT64, ["B", "E"]),
        ],
        [
            make.make_tensor_value_info("item", types.INT64, ["B", k]),
            make.make_tensor_value_info("score", types.FLOAT, ["B", k]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
