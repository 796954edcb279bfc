"""The published evaluation loops, restated slowly and apart from the package: label maps and histograms as LISA's
`train_ds.py` and `utils/utils.py` have them, one sample after the other as ReLA's `refer_evaluation.py` does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IGNORED = 255


def lisa(predictions: Sequence[np.ndarray], label_maps: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """gIoU, cIoU, and the gIoU as `AverageMeter.all_reduce` prints it. Label maps hold 0, 1 and 255."""
    summed_iou, sums = np.zeros(2), np.zeros((2, 2))
    for prediction, label_map in zip(predictions, label_maps, strict=True):
        predicted, label = prediction.astype(int).ravel(), label_map.astype(int).ravel()
        predicted[label == IGNORED] = IGNORED
        bins = [-0.5, 0.5, 1.5]  # classes 0 and 1; 255 falls out
        shared, predicted_area, label_area = (
            np.histogram(x, bins)[0] for x in (predicted[predicted == label], predicted, label)
        )
        union = predicted_area + label_area - shared
        each = shared / (union + 1e-5)
        each[union == 0] += 1.0
        summed_iou += each
        sums += np.stack([shared, union])
    n = len(predictions)
    return summed_iou[1] / n, sums[0, 1] / (sums[1, 1] + 1e-10), summed_iou[1] / (n + 1e-5)


def rela(
    predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray], refusals: Sequence[bool]
) -> dict[str, float | None]:
    """All that ReLA prints, as shares of one; None where it would divide by nothing."""
    table = {"TP": 0, "TN": 0, "FP": 0, "FN": 0}
    total_iou, total_i, total_u, reached = 0.0, 0, 0, dict.fromkeys((0.5, 0.6, 0.7, 0.8, 0.9), 0)
    for prediction, target, refused in zip(predictions, targets, refusals, strict=True):
        i, u = int(np.sum(prediction & target)), int(np.sum(prediction | target))
        if not target.any():
            table["TP" if refused else "FN"] += 1
            total_iou += 1.0 if refused else 0.0
            total_u += 0 if refused else u
            continue
        table["FP" if refused else "TN"] += 1
        i = 0 if refused else i
        this = i / u
        total_iou, total_i, total_u = total_iou + this, total_i + i, total_u + u
        for threshold in reached:
            reached[threshold] += this >= threshold
    absent, targeted = table["TP"] + table["FN"], table["TN"] + table["FP"]
    return {
        "gIoU": total_iou / len(predictions) if predictions else None,
        "cIoU": total_i / total_u if total_u else None,
        "N_acc": table["TP"] / absent if absent else None,
        "T_acc": table["TN"] / targeted if targeted else None,
        **{f"P@{t}": n / targeted if targeted else None for t, n in reached.items()},
    }
