"""What every dataset is: a graph and the report on how it was read."""

from __future__ import annotations

from torch_geometric.data import HeteroData

from alignrec_pyg.report import DataReport


class InteractionDataset:
    """Users, items and their interactions, read and checked.

    Args:
        data: The graph, as :mod:`alignrec_pyg.graph` describes it. ``edge_index`` holds *all*
            links; where the source knows them, ``.time`` (int64 or float64 ``[E]``, in the
            source's unit), ``.rating`` (float32 ``[E]``) and ``.split`` (int8 ``[E]``: 0 train,
            1 val, 2 test) stand beside it.
        report: Counts and notes from reading.
    """

    def __init__(self, data: HeteroData, report: DataReport) -> None:
        self.data = data
        self.report = report

    def __repr__(self) -> str:
        """The class and the sizes."""
        report = self.report
        return (
            f"{type(self).__name__}(users={report.users}, items={report.items}, "
            f"interactions={report.interactions})"
        )
