"""One process of a mesh: runs cases on several meshes one after another; rank 0 writes what came out.

torchrun --nproc-per-node 2 -m tests.distributed.worker OUT ARCHIVE graph:1x2x1 fuxi:1x1x2:sharded ...

DOUBLE=1 computes in float64.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh

from forecast.core.sections import TrainingSection
from forecast.training.mesh import AXES, Mesh, joined
from tests.distributed import double, runs
from tests.training.ranks import group_threads


def main() -> None:
    out, archive = Path(sys.argv[1]), Path(sys.argv[2])
    if "DOUBLE" in os.environ:
        double.switch_on()
    section = TrainingSection.model_validate({"stages": [{"updates": 1, "lr": 1.0}], "device": "cpu"})
    with joined(section) as all_of_data:
        for what in sys.argv[3:]:
            case, shape, *options = what.split(":")
            sizes = tuple(map(int, shape.split("x")))
            mesh = all_of_data
            if mesh.spread:
                mesh = Mesh(mesh.world, init_device_mesh("cpu", sizes, mesh_dim_names=AXES), mesh.store)
            config = runs.config(case, out, archive, parameters="sharded" if "sharded" in options else "replicated",
                                 **dict(zip(AXES, sizes, strict=True)))  # fmt: skip
            found = runs.run(config, mesh, "nudged" in options)
            if mesh.first:
                save_file(found, out / f"{what.replace(':', '-')}.safetensors")
            del mesh
        del all_of_data
    assert not group_threads() or "sharded" in " ".join(sys.argv)  # whose groups torch's caches keep


if __name__ == "__main__":
    main()
