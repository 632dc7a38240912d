"""Evaluation: rankings of all items, and every metric that follows from them."""

from alignrec_pyg.evaluation.beyond_accuracy import (
    BeyondAccuracy,
    ListDiversity,
    beyond_accuracy,
    intra_list_diversity,
)
from alignrec_pyg.evaluation.groups import (
    ActivityGroup,
    PopularityGroup,
    activity_groups,
    long_tail_links,
    popularity_groups,
)
from alignrec_pyg.evaluation.metrics import (
    UserMetrics,
    evaluate,
    evaluate_users,
    user_metrics,
)
from alignrec_pyg.evaluation.ranking import Ranking, rank

__all__ = [
    "ActivityGroup",
    "BeyondAccuracy",
    "ListDiversity",
    "PopularityGroup",
    "Ranking",
    "UserMetrics",
    "activity_groups",
    "beyond_accuracy",
    "evaluate",
    "evaluate_users",
    "intra_list_diversity",
    "long_tail_links",
    "popularity_groups",
    "rank",
    "user_metrics",
]
