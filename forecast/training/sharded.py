"""Weights in pieces, one on each process, put together layer by layer while they are needed (FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
from forecast.training import exchange
from forecast.training.mesh import Axis, Mesh
from forecast.training.shared_terms import Everywhere
from forecast.training.sharing import become


def shard(model: Forecaster, section: TrainingSection, mesh: Mesh) -> None:
    """Cut the network's weights, in place, among all processes of the mesh; gradients are summed over them.

    Raises:
        ForecastError: a term of the loss that takes the weights themselves.
    """
    for name, term in model.loss.terms.items():
        if term.of == "weights":
            raise ForecastError(
                f"loss.terms.{name}: `{term.loss}` takes whole weights, of which training.mesh.parameters: sharded "
                "leaves each process a piece: use replicated"
            )
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nobody writes to them
    every = init_device_mesh(model.lower.device.type, (mesh.size,), mesh_dim_names=("all",))
    if any(p.numel() for p in model.terms.parameters()):
        become(model.terms, Everywhere)
    for part in _parts(model):
        empty = {p for p in part.parameters() if not p.numel()}
        whole: Any = fully_shard(part, mesh=every, reshard_after_forward=True, ignored_params=empty)
        whole.set_gradient_divide_factor(1.0)
        whole.set_force_sum_reduction_for_comms(True)
    if isinstance(model.network, GraphTransformer):
        register_fsdp_forward_method(model.network.decoder, "ask")


def _parts(model: Forecaster) -> list[nn.Module]:
    """What is put together by itself, the inner parts first."""
    network, terms = model.network, [model.terms] if isinstance(model.terms, Everywhere) else []
    if isinstance(network, GraphTransformer):
        return [network.encoder, *network.layers, network.decoder, network, *terms]
    assert isinstance(network, VariationalNetwork)
    blocks = [module for module in network.modules() if isinstance(module, Block | HarmonicLayer)]
    networks = [part for part in (network.prior, network.posterior, network.decoder) if part is not None]
    return [*blocks, *networks, *terms]


def whole(x: Tensor) -> Tensor:
    """All of a tensor of which a piece may lie here."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def local(x: Tensor) -> Tensor:
    """The piece of a tensor that lies here, or all of it; what is written there is written to the tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def of_whole(function: Callable[[Tensor], Tensor], rows: Tensor, like: Tensor) -> Tensor:
    """The rows that lie here of a function of matrices (n, R, C) -> (n, R, C), each of which is taken whole.

    Args:
        rows: (n, r, C) that lie here. like: a matrix that is cut as they are, by its rows, or not at all.
    """
    if not isinstance(like, DTensor):
        return function(rows)
    mesh = like.device_mesh
    axis = Axis(mesh.get_local_rank(), mesh.size(), mesh.get_group())
    most = -(-like.shape[0] // axis.size)  # FSDP2 fills one process after another
    cuts = [slice(min(rank * most, like.shape[0]), min((rank + 1) * most, like.shape[0])) for rank in range(axis.size)]
    mine = axis.parts(len(rows))
    whole = exchange.share(axis, rows, 1, [cut.stop - cut.start for cut in cuts], 0, mine)
    found = function(whole).to(rows.dtype) if len(whole) else whole
    return exchange.share(axis, found, 0, [part.stop - part.start for part in mine], 1, cuts)


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, in pieces where `like` is."""
    return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x
