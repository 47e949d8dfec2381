"""Weights in pieces, one on each process, put together layer by layer while they are needed (FSDP2)."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from forecast.core.errors import ForecastError
from forecast.core.sections import TrainingSection
from forecast.models.forecaster import Forecaster
from forecast.models.fuxi_blocks import Block
from forecast.models.graph_transformer import GraphTransformer
from forecast.models.harmonic import HarmonicLayer
from forecast.models.variational import VariationalNetwork
from forecast.training.mesh import Mesh


def shard(model: Forecaster, section: TrainingSection, mesh: Mesh) -> None:
    """Cut the network's weights, in place, among all processes of the mesh; gradients are summed over them.

    Raises:
        ForecastError: weights outside the network, or an optimiser of whole matrices.
    """
    if section.optimizer == "muon":
        raise ForecastError("training.mesh.parameters: sharded cuts the matrices that muon takes whole: use adamw")
    if model.loss.terms:
        raise ForecastError("training.mesh.parameters: sharded does not reach what loss.terms learn: use replicated")
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nobody writes to them
    every = init_device_mesh(model.lower.device.type, (mesh.size,), mesh_dim_names=("all",))
    for part in _parts(model.network):
        empty = {p for p in part.parameters() if not p.numel()}
        whole: Any = fully_shard(part, mesh=every, reshard_after_forward=True, ignored_params=empty)
        whole.set_gradient_divide_factor(1.0)
        whole.set_force_sum_reduction_for_comms(True)
    if isinstance(model.network, GraphTransformer):
        register_fsdp_forward_method(model.network.decoder, "ask")


def _parts(network: nn.Module) -> list[nn.Module]:
    """What is put together by itself, the inner parts first."""
    if isinstance(network, GraphTransformer):
        return [network.encoder, *network.layers, network.decoder, network]
    assert isinstance(network, VariationalNetwork)
    blocks = [module for module in network.modules() if isinstance(module, Block | HarmonicLayer)]
    return [*blocks, *(part for part in (network.prior, network.posterior, network.decoder) if part is not None)]


def whole(x: Tensor) -> Tensor:
    """All of a tensor of which a piece may lie here."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, in pieces where `like` is."""
    return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x
