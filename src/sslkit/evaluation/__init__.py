"""How good frozen features are: nearest neighbours, linear classifiers, few labels.

Results are frozen dataclasses that print themselves; accuracies are in percent. Every classifier reports top-1 and top-5.
"""

from sslkit.evaluation._accuracy import Accuracy, top_accuracy
from sslkit.evaluation._few_shot import FewShotResult, Spread, few_shot
from sslkit.evaluation._jaccard import JaccardResult, jaccard
from sslkit.evaluation._neighbour_match import neighbour_match_accuracy
from sslkit.evaluation._search import Neighbours, nearest_neighbours
from sslkit.evaluation.attention import attention_masks
from sslkit.evaluation.collapse import CollapseReport, collapse_report
from sslkit.evaluation.features import extract_features, multiscale_features, probe_features
from sslkit.evaluation.knn import KNNResult, knn_classify
from sslkit.evaluation.linear import LearningRateRow, LinearResult, linear_probe
from sslkit.evaluation.saliency_metrics import FBetaResult, f_beta, mean_absolute_error
from sslkit.evaluation.subsets import semi_supervised_subset

__all__ = [
    "Accuracy",
    "CollapseReport",
    "FBetaResult",
    "FewShotResult",
    "JaccardResult",
    "KNNResult",
    "LearningRateRow",
    "LinearResult",
    "Neighbours",
    "Spread",
    "attention_masks",
    "collapse_report",
    "extract_features",
    "f_beta",
    "few_shot",
    "jaccard",
    "knn_classify",
    "linear_probe",
    "mean_absolute_error",
    "multiscale_features",
    "nearest_neighbours",
    "neighbour_match_accuracy",
    "probe_features",
    "semi_supervised_subset",
    "top_accuracy",
]
