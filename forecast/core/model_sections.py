"""What a run's configuration may say about the forecaster: a section for each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from forecast.core.sections import Section


def _recomputed(value: Any) -> Any:
    """Older configs say yes or no, and mean steps."""
    return {True: "step", False: "none"}.get(value, value) if isinstance(value, bool) else value


Checkpointing = Annotated[Literal["none", "layer", "step", "both"], BeforeValidator(_recomputed)]
"""what the gradient computes again instead of keeping it: the inside of each layer, of each rollout step"""


class Residual(Section):
    """The newest state that increments are added to, smoothed through a coarse grid: x_ref = Up(Down(x))."""

    grid: str = Field(description="coarse grid by name, e.g. O32")
    method: Literal["linear", "conservative", "gaussian"] = Field(
        "conservative", description="weights down; conservative means go up again by linear ones. linear samples"
    )
    neighbours: int = Field(32, ge=1, description="of gaussian weights")
    sigma: float | None = Field(None, gt=0, description="radians, of gaussian weights; the mean spacing if absent")
    shown: bool = Field(False, description="the network reads x_ref as well")


class Bound(Section):
    """Limits of predicted variables, in physical units, which a network's output is brought within."""

    variables: tuple[str, ...] = Field(min_length=1)
    minimum: float | None = Field(None, description="of the variable, or of the fraction")
    maximum: float | None = None
    of: str | None = Field(None, description="a predicted variable; output is the fraction of it, e.g. cp of tp")
    leak: float = Field(0.0, ge=0, lt=1, description="slope beyond the limits in training, so that a gradient passes")

    @model_validator(mode="after")
    def _has_limits(self) -> Bound:
        if self.minimum is None and self.maximum is None:
            raise ValueError("a bound needs `minimum` or `maximum`")
        if self.minimum is not None and self.maximum is not None and not self.minimum < self.maximum:
            raise ValueError(f"minimum={self.minimum:g} must lie below maximum={self.maximum:g}")
        return self


class GraphTransformerSection(Section):
    """Graph transformer of the AIFS-CRPS kind: grid -> mesh -> grid (docs/aifs_crps.md)."""

    kind: Literal["graph_transformer"] = "graph_transformer"
    blocks: Literal["compact", "full", "direct"] = Field(
        "compact",
        description="full: transformer blocks of the mesh's width on the grid too, as published; direct: no mesh, the "
        "processor works on the data's points",
    )
    mesh_refinement: int = Field(3, ge=0, le=7, description="icosahedral refinements: 3 = 642 nodes")
    mesh: str | None = Field(None, description="mesh by name (O96, HN32, ico5; data: its points), not mesh_refinement")
    mesh_region: bool = Field(False, description="keep only mesh nodes near the grid (regional grids)")
    width: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    layers: int = Field(4, ge=1)
    mlp_ratio: float = Field(2.0, gt=0)
    processor: Literal["graph", "window", "dense", "harmonic"] = Field(
        "graph",
        description="attention to mesh neighbours, to nodes that are near in their order, or to all nodes; harmonic: "
        "filters in spherical harmonics and their gradients",
    )
    truncation: int = Field(21, ge=1, description="T of processor: harmonic")
    filters: int = Field(32, ge=1, description="filtered fields of each harmonic layer")
    window: int = Field(512, ge=1, description="nodes to each side, of processor: window")
    qk_norm: bool = Field(False, description="norm queries and keys of window and of full graph attention")
    grid_width: int = Field(64, ge=8, description="of compact blocks: features per grid point, where most nodes are")
    grid_heads: int = Field(4, ge=1)
    encoder_neighbours: int = Field(12, ge=1, description="nearest grid points that each mesh node reads")
    encoder_cutoff: float | None = Field(
        None, gt=0, description="in their place all grid points so near, in units of the mesh's spacing"
    )
    encoder_spread: int | None = Field(None, ge=1, description="in their place: each grid point goes to so many nodes")
    processor_neighbours: int = Field(7, ge=1, description="nearest mesh nodes, itself included")
    coarse_neighbours: int = Field(3, ge=0, description="nearest nodes of each coarser level of the mesh")
    decoder_neighbours: int = Field(4, ge=1)
    noise_channels: int = Field(4, ge=1)
    noise_hidden: int = Field(32, ge=1)
    trainable_features: int = Field(8, ge=0, description="learnt numbers per node")
    trainable_edges: int = Field(0, ge=0, description="learnt numbers per edge of full blocks")
    units: Literal["tendency", "state"] = Field(
        "tendency", description="of what the network adds: a variable's standard deviation, of its change or itself"
    )
    step_flag: tuple[float, float] = Field((1.0, 2.0), description="input of the first step, and of later ones")
    residual: Residual | None = Field(None, description="smooth the state that increments are added to")
    bounds: tuple[Bound, ...] = Field((), description="applied in order; other variables keep their physical minimum")
    activation_checkpointing: Checkpointing = "none"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> GraphTransformerSection:
        compact = [("grid_heads", "grid_width")] if self.blocks == "compact" else []
        for heads, width in (("heads", "width"), *compact):
            if getattr(self, width) % getattr(self, heads):
                given = f"model.{heads}={getattr(self, heads)} must divide model.{width}={getattr(self, width)}"
                raise ValueError(given)
        return self

    @model_validator(mode="after")
    def _direct_on_data(self) -> GraphTransformerSection:
        if self.blocks == "direct" and self.mesh != "data":
            raise ValueError("model.blocks=direct has no mesh of its own: set model.mesh to data")
        return self

    @model_validator(mode="after")
    def _one_encoder(self) -> GraphTransformerSection:
        if self.encoder_cutoff is not None and self.encoder_spread is not None:
            raise ValueError("model.encoder_cutoff and model.encoder_spread exclude each other: give one")
        return self


class LatentSection(Section):
    """The random fields that are added to the input states of a variational forecaster."""

    prior: Literal["learnt", "white"] = Field("learnt", description="white: N(0, 1) everywhere, no network")
    logvar: float = Field(0.0, ge=-10, le=10, description="where learnt log variances start; 0: at N(0, 1)")
    rank: int = Field(0, ge=0, description="global patterns of a low-rank covariance beside the diagonal (FuXi-S2S)")
    coarsening: int = Field(1, ge=1, description="drawn at 1/n of the resolution and interpolated (SwinVRNN)")


class DivergenceSection(Section):
    """beta KL(posterior || prior): how much it counts, update by update, from the first with several members on."""

    beta: float = Field(1e-3, ge=0, description="weight of the mean over latent dimensions, in nats")
    schedule: Literal["constant", "linear", "cyclic"] = "linear"
    warmup: int = Field(0, ge=0, description="linear: updates from 0 to beta")
    cycle: int = Field(0, ge=0, description="cyclic: updates from one rise to the next")
    rise: float = Field(0.5, gt=0, le=1, description="cyclic: share of a cycle from 0 to beta")
    free_bits: float = Field(0.0, ge=0, description="nats per latent dimension that cost nothing")
    balance: float | None = Field(None, ge=0, le=1, description="share of the gradient that moves the prior")

    @model_validator(mode="after")
    def _cycle_of_cyclic(self) -> DivergenceSection:
        if (self.schedule == "cyclic") != (self.cycle > 0):
            raise ValueError("`cycle` goes with `schedule: cyclic`, and must be positive there")
        return self


class FuxiEnsSection(Section):
    """Variational forecaster of the FuXi-ENS kind: prior, posterior and decoder on patches of a grid.

    Defaults are the released network's where it has one.
    """

    kind: Literal["fuxi_ens"]
    patch: tuple[int, int] = Field((8, 8), description="rows and columns of the grid that make a token")
    remainder: Literal["pad", "drop"] = Field(
        "pad", description="rows and columns that do not fill a patch: fill it up, or leave them out of the input"
    )
    backbone: Literal["windows", "harmonic"] = Field(
        "windows",
        description="how tokens learn of each other: attention in windows (the release), or filters in spherical "
        "harmonics and their gradients, the layers of the graph transformer's processor: harmonic",
    )
    window: tuple[int, int] = Field((18, 18), description="rows and columns of tokens that attend to each other")
    truncation: int = Field(21, ge=1, description="T of backbone: harmonic")
    filters: int = Field(32, ge=1, description="filtered fields of each block of backbone: harmonic")
    width: int = Field(1536, ge=8)
    heads: int = Field(24, ge=1, description="of backbone: windows")
    mlp_width: int = Field(4096, ge=8)
    blocks: int = Field(7, ge=1, description="of a layer; with windows, every second one attends in shifted ones")
    prior_layers: int = Field(2, ge=1, description="of the prior, and of the posterior")
    decoder_layers: int = Field(6, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1, description="of prior and posterior; part of the noise, in forecasts too")
    output: Literal["absolute", "increment"] = Field("absolute", description="the state, or its change in a step")
    last_step: int = Field(0, ge=0, description="later steps are told to the network as this one, counted from 0")
    latent: LatentSection = LatentSection()
    divergence: DivergenceSection = DivergenceSection()
    prior_share: float = Field(0.0, ge=0, le=1, description="of members drawn from the prior in training")
    event_width: int = Field(32, ge=1, description="features per grid point that event heads read")
    checkpoint_blocks: bool = Field(False, description="recompute each block for its gradient")
    activation_checkpointing: bool = Field(False, description="recompute each step of a rollout for its gradient")

    @model_validator(mode="after")
    def _sizes_fit(self) -> FuxiEnsSection:
        if min(self.patch) < 1 or min(self.window) < 1:
            raise ValueError(f"patch {self.patch} and window {self.window} must be positive")
        if self.backbone == "windows" and self.width % (2 * self.heads):
            given = f"model.heads={self.heads} must divide model.width={self.width} into an even width of each head"
            raise ValueError(f"{given}, whose pairs are turned")
        if any(size % self.latent.coarsening for size in self.patch):
            raise ValueError(f"latent.coarsening={self.latent.coarsening} must divide patch={list(self.patch)}")
        if self.latent.prior == "white" and (self.latent.rank or self.latent.logvar):
            raise ValueError("a white prior is N(0, 1): leave out latent.rank and latent.logvar, or let it be learnt")
        return self


KINDS = ("graph_transformer", "fuxi_ens")


def _kind(section: Any) -> str:
    """The kind that a section names; graph transformer if none."""
    return str(section.get("kind", "graph_transformer") if isinstance(section, dict) else section.kind)


ModelSection = Annotated[
    Annotated[GraphTransformerSection, Tag("graph_transformer")] | Annotated[FuxiEnsSection, Tag("fuxi_ens")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message=f"`kind` must be one of {', '.join(KINDS)}"),
]
