#!/usr/bin/env bash
# Expected: scikit-learn's ranking metrics agree on a user without relevant items: all undefined (NaN or an error), or
#   all the worst value.
# Seen: three answers. label_ranking_average_precision_score gives 1.0, the best value, and takes it into the mean over
#   users; ndcg_score and average_precision_score give 0.0; roc_auc_score gives NaN.
. "$(dirname "$0")/_environment.sh"
environment scikit-learn==1.9.1 numpy==2.4.6
python - <<'PY'
import numpy as np
from sklearn import metrics

nothing, scores = np.zeros((1, 4), dtype=int), np.array([[0.1, 0.2, 0.3, 0.4]])
seen = {
    "label_ranking_average_precision_score": metrics.label_ranking_average_precision_score(nothing, scores),
    "ndcg_score": metrics.ndcg_score(nothing, scores),
    "average_precision_score": metrics.average_precision_score(nothing[0], scores[0]),
    "roc_auc_score": metrics.roc_auc_score(nothing[0], scores[0]),
}
for name, value in seen.items():
    print(f"{name:40} {value}")
worst = np.array([[1, 0, 0, 0]])
mean = metrics.label_ranking_average_precision_score(np.vstack([worst, nothing]), np.vstack([scores, scores]))
print(f"label_ranking_average_precision_score of the worst possible user {0.25}, with the empty one {mean}")
assert seen["label_ranking_average_precision_score"] == 1.0, seen
assert seen["ndcg_score"] == seen["average_precision_score"] == 0.0, seen
assert np.isnan(seen["roc_auc_score"]), seen
assert mean == (0.25 + 1.0) / 2
PY
