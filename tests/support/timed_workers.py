"""How long a step takes by one worker and by two, in turns; run as a script, once per worker.

The first worker writes JSON: seconds per step ``{"model": {"alone": [...], "together": [...]}}``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import distributed, nn

from primum_pipelines.models.registry import build
from primum_pipelines.optimization import distributed as workers
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask
from primum_pipelines.optimization.dpsgd import DPSGD

IMAGE, UNITS, BATCH, STEPS, ROUNDS = (1, 28, 28), 512, 256, 3, 5
MODELS = ("SmallCNN", "MLP")


def row_loss(module, rows, labels):
    return nn.functional.cross_entropy(module(rows), labels, reduction="none")


def seconds_per_step(model, group):
    """Of the steps after the first, which learns how large parts may be."""
    own = workers.share(UNITS, rank=group.rank, count=group.count)
    rows = torch.randn((UNITS, *IMAGE), generator=torch.Generator().manual_seed(1))
    ends = []
    DPSGD().fit(
        TrainingTask(
            module=build(model, {}, input_shape=IMAGE, classes=2),
            inputs=(rows[own.start : own.stop], torch.arange(UNITS)[own.start : own.stop] % 2),
            loss=row_loss,
            expected_units=UNITS,
            mechanism=MechanismParameters(1.0, BATCH / UNITS, STEPS + 1, 1.0),
            learning_rate=0.1,
            seed=3,
            group=group,
            on_step=lambda done, planned: ends.append(time.perf_counter()),
        )
    )
    return (ends[-1] - ends[0]) / STEPS


def main(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    group = workers.joined(workers=2)
    found = {model: {"alone": [], "together": []} for model in MODELS}
    for model in MODELS:
        for _ in range(ROUNDS):
            if rank == 0:
                found[model]["alone"].append(seconds_per_step(model, workers.Alone()))
            distributed.barrier()  # The other worker sleeps meanwhile.
            found[model]["together"].append(seconds_per_step(model, group))
            distributed.barrier()
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
