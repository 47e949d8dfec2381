"""What a run's configuration may say about the forecaster: a section for each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from forecast.core.sections import Section


class GraphTransformerSection(Section):
    """Graph transformer of the AIFS-CRPS kind: grid -> icosahedral mesh -> grid."""

    kind: Literal["graph_transformer"] = "graph_transformer"
    mesh_refinement: int = Field(3, ge=0, le=7, description="icosahedral refinements: 3 = 642 nodes")
    mesh: str | None = Field(None, description="mesh by name (O96, HN32, ico5), in place of mesh_refinement")
    mesh_region: bool = Field(False, description="keep only mesh nodes near the grid (regional grids)")
    width: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    layers: int = Field(4, ge=1)
    mlp_ratio: float = Field(2.0, gt=0)
    processor: Literal["graph", "dense"] = Field("graph", description="attention to mesh neighbours, or to all nodes")
    grid_width: int = Field(64, ge=8, description="features per grid point, where most of the nodes are")
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
    activation_checkpointing: bool = False

    @model_validator(mode="after")
    def _heads_divide_width(self) -> GraphTransformerSection:
        for heads, width in (("heads", "width"), ("grid_heads", "grid_width")):
            if getattr(self, width) % getattr(self, heads):
                given = f"model.{heads}={getattr(self, heads)} must divide model.{width}={getattr(self, width)}"
                raise ValueError(given)
        return self

    @model_validator(mode="after")
    def _one_encoder(self) -> GraphTransformerSection:
        if self.encoder_cutoff is not None and self.encoder_spread is not None:
            raise ValueError("model.encoder_cutoff and model.encoder_spread exclude each other: give one")
        return self


class FuxiEnsSection(Section):
    """Variational forecaster of the FuXi-ENS kind."""

    kind: Literal["fuxi_ens"]


KINDS = ("graph_transformer", "fuxi_ens")


def _kind(section: Any) -> str:
    """The kind that a section names; graph transformer if none."""
    return str(section.get("kind", "graph_transformer") if isinstance(section, dict) else section.kind)


ModelSection = Annotated[
    Annotated[GraphTransformerSection, Tag("graph_transformer")] | Annotated[FuxiEnsSection, Tag("fuxi_ens")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message=f"`kind` must be one of {', '.join(KINDS)}"),
]
