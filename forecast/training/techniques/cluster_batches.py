"""Batches of unlike samples by pseudo-labels (Chakraborty et al. 2020, G-SimCLR): clusters are kept apart."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from forecast.core import data_technique_sections as sections
from forecast.core import seeding
from forecast.core.grids import from_points
from forecast.data.sampler import Draw
from forecast.models.offers import coarse_cells
from forecast.training.curriculum import Update
from forecast.training.techniques.base import Make, Run, Technique

_ROUNDS = 50


class ClusterBatches(Technique[sections.ClusterBatches]):
    """Each epoch's random order is rearranged so that no batch has two samples of one k-means cluster.

    Clusters are of normalised states, told by means over regions (G-SimCLR: of an autoencoder's latents, from the
    abstract); where only one cluster is left, batches have it alone. Each window still comes once an epoch. With one
    cluster it is plain training. Reads every state once, at the start; the labels are saved with the run.
    """

    def __init__(self, section: sections.ClusterBatches, run: Run) -> None:
        super().__init__(section, run)
        self._ordered = lru_cache(maxsize=4)(self._order)  # its own: a cache of the class would keep the run

    def draw(self, plan: Update, windows: np.ndarray, make: Make) -> Draw:
        """The windows of this update in the rearranged order."""
        place = make(windows)
        if self.section.clusters == 1:
            return place
        if "labels" not in self.kept:
            self.kept["labels"] = torch.from_numpy(self._labels()).to(self.run.device)
        size, count = len(place.keys), len(windows)
        at = (place.update - plan.since) * size + np.arange(size)
        chosen = [self._ordered(plan.rollout, plan.since, int(i) // count, size)[int(i) % count] for i in at]
        return replace(place, windows=windows[np.array(chosen)])

    def _order(self, rollout: int, since: int, epoch: int, size: int) -> np.ndarray:
        data = self.run.data
        every = np.searchsorted(data.windows(1), data.windows(rollout))
        labels = self.kept["labels"].cpu().numpy()[every]
        order = seeding.permutation(self.key("order", since, epoch), len(labels))
        return apart(order, labels, size)

    def _labels(self) -> np.ndarray:
        """(W,) cluster of the first state of each window of one step."""
        data, model = self.run.data, self.run.model
        cells = coarse_cells(from_points(model.fields.latitudes, model.fields.longitudes), self.section.across)
        area, sizes = model.fields.areas, np.bincount(cells, model.fields.areas)
        state = np.empty((len(data.variables), data.truth.grid.size), np.float32)
        rows = []
        for first in data.windows(1):
            data.fill(data.truth, int(first), state)
            normal = np.nan_to_num(model.normalise.cpu()(torch.from_numpy(state.T)).numpy())
            rows.append([np.bincount(cells, area * column) / sizes for column in normal.T])
        model.normalise.to(self.run.device)
        return clusters(np.array(rows).reshape(len(rows), -1), self.section.clusters, self.key("means"))


def clusters(rows: np.ndarray, count: int, key: int) -> np.ndarray:
    """(N,) int64 labels of rows (N, D): k-means from `count` of them, drawn by `key`."""
    means = rows[seeding.permutation(key, len(rows))[:count]].copy()
    labels = np.zeros(len(rows), np.int64)
    for round_ in range(_ROUNDS):
        away = (rows**2).sum(1)[:, None] - 2 * rows @ means.T + (means**2).sum(1)
        new = away.argmin(axis=1)
        if round_ and np.array_equal(new, labels):
            break
        labels = new
        for k in np.unique(labels):
            means[k] = rows[labels == k].mean(axis=0)
    return labels.astype(np.int64)


def apart(order: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """`order` rearranged into batches of `size` without two of one label, as long as there are several left.

    Each batch takes one of each of the labels that have most left; those of a label stay in their order.
    """
    waiting = {label: deque(order[labels[order] == label].tolist()) for label in np.unique(labels)}
    out: list[int] = []
    while any(waiting.values()):
        left = [label for label in waiting if waiting[label]]
        fullest = sorted(left, key=lambda label: -len(waiting[label]))
        out += [waiting[label].popleft() for label in fullest[: size - len(out) % size]]
    return np.array(out)
