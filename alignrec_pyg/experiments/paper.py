"""Figures of the AlignRec paper (CIKM 2024, https://arxiv.org/abs/2403.12384), for orientation.

Test metrics at the best validation recall@20, with the paper's own features and split. Most
baseline columns of Table 2 equal those of earlier papers; do not take them for one code base's
output. Every function gives figures by row and metric, and none for data that is not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignrec_pyg.report import DataReport

PaperResults = Mapping[str, Mapping[str, float]]

ProtocolResults = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Recall by protocol, features and cut-off."""

PAPER_LABEL = "paper (its own features and split)"

PAPER_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")

_SIZES = {
    "baby": (19_445, 7_050, 160_792),
    "sports": (35_598, 18_357, 296_337),
    "elec": (192_403, 63_001, 1_689_188),
}
"""Users, items and interactions of the paper's data sets (its Table 1)."""

_TABLE_2_MODELS = (
    "BPR",
    "LightGCN",
    "VBPR",
    "MMGCN",
    "GRCN",
    "DualGNN",
    "BM3",
    "MGCN",
    "FREEDOM",
    "AlignRec",
)
_TABLE_2 = {
    "baby": (
        (0.0357, 0.0479, 0.0423, 0.0378, 0.0532, 0.0448, 0.0564, 0.0620, 0.0624, 0.0674),
        (0.0575, 0.0754, 0.0663, 0.0615, 0.0824, 0.0716, 0.0883, 0.0964, 0.0985, 0.1046),
        (0.0192, 0.0257, 0.0223, 0.0200, 0.0282, 0.0240, 0.0301, 0.0339, 0.0324, 0.0363),
        (0.0249, 0.0328, 0.0284, 0.0261, 0.0358, 0.0309, 0.0383, 0.0427, 0.0416, 0.0458),
    ),
    "sports": (
        (0.0432, 0.0569, 0.0558, 0.0370, 0.0559, 0.0568, 0.0656, 0.0729, 0.0710, 0.0758),
        (0.0653, 0.0864, 0.0856, 0.0605, 0.0877, 0.0859, 0.0980, 0.1106, 0.1077, 0.1160),
        (0.0241, 0.0311, 0.0307, 0.0193, 0.0306, 0.0310, 0.0355, 0.0397, 0.0382, 0.0414),
        (0.0298, 0.0387, 0.0384, 0.0254, 0.0389, 0.0385, 0.0438, 0.0496, 0.0476, 0.0517),
    ),
    "elec": (
        (0.0235, 0.0363, 0.0293, 0.0207, 0.0349, 0.0363, 0.0437, 0.0439, 0.0382, 0.0472),
        (0.0367, 0.0540, 0.0458, 0.0331, 0.0529, 0.0541, 0.0648, 0.0643, 0.0588, 0.0700),
        (0.0127, 0.0204, 0.0159, 0.0109, 0.0195, 0.0202, 0.0247, 0.0245, 0.0209, 0.0262),
        (0.0161, 0.0250, 0.0202, 0.0141, 0.0241, 0.0248, 0.0302, 0.0298, 0.0262, 0.0321),
    ),
}

_FEATURES = ("Amazon's", "CLIP's", "AlignRec's")

_TABLE_3_PROTOCOLS = ("zero-shot", "mask 50 % image", "mask 50 % text", "item-CF")
_TABLE_3 = {  # recall@10, @20, @50 of Amazon's, CLIP's and AlignRec's features, by protocol
    "baby": (
        ((0.0031, 0.0058, 0.0146), (0.0093, 0.0158, 0.0323), (0.0113, 0.0231, 0.0470)),
        ((0.0039, 0.0065, 0.0187), (0.0084, 0.0146, 0.0292), (0.0089, 0.0174, 0.0365)),
        ((0.0019, 0.0044, 0.0145), (0.0058, 0.0117, 0.0236), (0.0067, 0.0131, 0.0269)),
        ((0.0237, 0.0318, 0.0440), (0.0541, 0.0714, 0.0987), (0.0782, 0.1005, 0.1350)),
    ),
    "sports": (
        ((0.0056, 0.0081, 0.0120), (0.0136, 0.0226, 0.0418), (0.0165, 0.0268, 0.0457)),
        ((0.0041, 0.0073, 0.0111), (0.0124, 0.0206, 0.0384), (0.0118, 0.0216, 0.0401)),
        ((0.0036, 0.0056, 0.0091), (0.0044, 0.0074, 0.0198), (0.0052, 0.0085, 0.0198)),
        ((0.0268, 0.0335, 0.0454), (0.0565, 0.0756, 0.1028), (0.0772, 0.1059, 0.1497)),
    ),
}

_TABLE_4 = {  # Amazon's, CLIP's and AlignRec's features
    "baby": {
        "VBPR": (
            (0.0423, 0.0663, 0.0223, 0.0284),
            (0.0467, 0.0737, 0.0253, 0.0322),
            (0.0495, 0.0768, 0.0265, 0.0337),
        ),
        "BM3": (
            (0.0532, 0.0850, 0.0277, 0.0359),
            (0.0538, 0.0851, 0.0282, 0.0366),
            (0.0545, 0.0864, 0.0289, 0.0369),
        ),
        "FREEDOM": (
            (0.0624, 0.0985, 0.0324, 0.0416),
            (0.0629, 0.0987, 0.0337, 0.0428),
            (0.0653, 0.0999, 0.0349, 0.0438),
        ),
    },
    "sports": {
        "VBPR": (
            (0.0558, 0.0856, 0.0307, 0.0384),
            (0.0554, 0.0865, 0.0297, 0.0381),
            (0.0570, 0.0885, 0.0310, 0.0392),
        ),
        "BM3": (
            (0.0622, 0.0962, 0.0336, 0.0424),
            (0.0629, 0.0965, 0.0347, 0.0433),
            (0.0655, 0.0983, 0.0359, 0.0447),
        ),
        "FREEDOM": (
            (0.0710, 0.1077, 0.0382, 0.0476),
            (0.0716, 0.1103, 0.0383, 0.0483),
            (0.0724, 0.1110, 0.0394, 0.0490),
        ),
    },
}

_TABLE_4_SAVED = {  # % of memory, against Amazon's features; which memory is not said
    "baby": {"VBPR": (13.90, 16.65), "BM3": (7.28, 10.45), "FREEDOM": (24.60, 27.54)},
    "sports": {"VBPR": (22.28, 26.23), "BM3": (13.02, 16.59), "FREEDOM": (22.17, 26.15)},
}

_TABLE_5 = {  # with both modalities, without vision; Baby only
    "VBPR": ((0.0423, 0.0663, 0.0223, 0.0284), (0.0458, 0.0723, 0.0242, 0.0310)),
    "BM3": ((0.0564, 0.0883, 0.0301, 0.0383), (0.0565, 0.0880, 0.0299, 0.0385)),
    "FREEDOM": ((0.0624, 0.0985, 0.0324, 0.0416), (0.0620, 0.0993, 0.0326, 0.0422)),
}

_TABLE_6 = {  # recall@10 and ndcg@10, one run
    "baby": {
        "AlignRec": (0.0674, 0.0363),
        "w/o CCA": (0.0627, 0.0339),
        "w/o UIA": (0.0640, 0.0348),
        "w/o REG": (0.0604, 0.0323),
        "w/o image": (0.0611, 0.0333),
        "w/o text": (0.0580, 0.0311),
    },
    "sports": {
        "AlignRec": (0.0758, 0.0414),
        "w/o CCA": (0.0663, 0.0357),
        "w/o UIA": (0.0726, 0.0401),
        "w/o REG": (0.0690, 0.0368),
        "w/o image": (0.0747, 0.0401),
        "w/o text": (0.0677, 0.0372),
    },
}

_TABLE_8 = {  # recall@20 and ndcg@20, means of 5 seeds
    "baby": {
        "AlignRec": (0.1039, 0.0458),
        "w/o CCA": (0.0977, 0.0430),
        "w/o UIA": (0.0996, 0.0440),
        "w/o REG": (0.0940, 0.0412),
        "w/o image": (0.0960, 0.0422),
        "w/o text": (0.0924, 0.0399),
    },
    "sports": {
        "AlignRec": (0.1158, 0.0517),
        "w/o CCA": (0.1028, 0.0449),
        "w/o UIA": (0.1107, 0.0491),
        "w/o REG": (0.1061, 0.0464),
        "w/o image": (0.1122, 0.0496),
        "w/o text": (0.1024, 0.0460),
    },
}


def table_2(data_name: str, report: DataReport) -> PaperResults:
    """All models."""
    if not _is_paper_data(data_name, report):
        return {}
    columns = zip(*_TABLE_2[data_name], strict=True)
    return {model: _metrics(column) for model, column in zip(_TABLE_2_MODELS, columns, strict=True)}


def table_3(data_name: str, report: DataReport) -> ProtocolResults:
    """Features evaluated without training; vision is the modality ``"image"``."""
    if not _is_paper_data(data_name, report) or data_name not in _TABLE_3:
        return {}
    return {
        protocol: {
            f"{name} features": dict(zip((10, 20, 50), values, strict=True))
            for name, values in zip(_FEATURES, sets, strict=True)
        }
        for protocol, sets in zip(_TABLE_3_PROTOCOLS, _TABLE_3[data_name], strict=True)
    }


def table_4(data_name: str, report: DataReport) -> list[str]:
    """Feature sets swapped, one line per row: they are no rows of ours."""
    if not _is_paper_data(data_name, report) or data_name not in _TABLE_4:
        return []
    return [
        f"paper's Table 4, {model} on {name} features: "
        + ", ".join(f"{m} {value:.4f}" for m, value in zip(PAPER_METRICS, values, strict=True))
        + ("" if saved is None else f", memory saved {saved} %")
        for model, sets in _TABLE_4[data_name].items()
        for name, values, saved in zip(
            _FEATURES, sets, (None, *_TABLE_4_SAVED[data_name][model]), strict=True
        )
    ]


def table_5(data_name: str, report: DataReport) -> PaperResults:
    """Without vision: rows ``"<model>"`` and ``"<model> w/o image"``."""
    if not _is_paper_data(data_name, report) or data_name != "baby":
        return {}
    found = {}
    for model, (both, without) in _TABLE_5.items():
        found[model] = _metrics(both)
        found[f"{model} w/o image"] = _metrics(without)
    return found


def table_8(data_name: str, report: DataReport) -> PaperResults:
    """AlignRec without one of its parts: @10 of Table 6, one run, @20 of Table 8, means of 5."""
    if not _is_paper_data(data_name, report) or data_name not in _TABLE_8:
        return {}
    at_10 = _TABLE_6[data_name]
    return {
        row: _metrics((at_10[row][0], recall, at_10[row][1], ndcg))
        for row, (recall, ndcg) in _TABLE_8[data_name].items()
    }


def _is_paper_data(data_name: str, report: DataReport) -> bool:
    """Whether data has both the name and the size of one of the paper's data sets."""
    return _SIZES.get(data_name) == (report.users, report.items, report.interactions)


def _metrics(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(PAPER_METRICS, values, strict=True))
