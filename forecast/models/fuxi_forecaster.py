"""The forecaster of the FuXi-ENS kind: a conditional variational autoencoder whose score is a CRPS.

z = state + mean + exp(logvar / 2) noise on all input states, accumulated variables zero; the decoder makes the next
state of it. Forecasts draw from the prior P(past), training from the posterior Q(past, truth) as well, and
beta KL(Q || P) ties the two (Zhong et al. 2025; what they do not tell is our own reading, docs/fuxi_ens.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from forecast import losses
from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.model_sections import FuxiEnsSection
from forecast.core.sections import LossSection
from forecast.data.batch import Batch
from forecast.losses.variational import annealed
from forecast.models import diagnosis
from forecast.models.base import Forecaster, Outcome, clock
from forecast.models.features import Features
from forecast.models.fields import Fields
from forecast.models.latent import Gaussian, divergence
from forecast.models.precision import multiplies_in_half
from forecast.models.variational import VariationalNetwork

READ_FEATURES = ("event", "distribution", "members", "rollout")
"""what a term is of, if it may read features of grid points"""
Known = tuple[Tensor, Tensor]
"""forcings (B, G, F) and times (B, 3)"""


class FuxiForecaster(Forecaster):
    """x(t + step) = decoder(x(t - step) + noise, x(t) + noise, forcings, time), the noise from a learnt distribution.

    In training a lone member is deterministic: nothing is added to its states.
    """

    section: FuxiEnsSection
    network: VariationalNetwork

    def __init__(self, section: FuxiEnsSection, fields: Fields, loss: LossSection) -> None:
        if "kl" in loss.terms:
            raise ForecastError("loss.terms.kl: model.divergence has this name already; call the term something else")
        super().__init__(section, fields, loss)
        self.begin_update(0)

    def _make_network(self) -> VariationalNetwork:
        read = any(term.of in READ_FEATURES for term in self.loss.terms.values())
        return VariationalNetwork(self.section, self.fields, read)

    def begin_update(self, update: int) -> None:
        """Set beta, which follows its schedule from the first update with several members on."""
        s = self.section.divergence
        self.beta = annealed(update, top=s.beta, warmup=s.warmup, schedule=s.schedule, cycle=s.cycle, rise=s.rise)

    def check_members(self, numbers: Iterable[int]) -> None:
        """As of every forecaster; see `prior_members`."""
        for members in numbers:
            self.prior_members(members)

    def prior_members(self, members: int) -> int:
        """How many of `members` are drawn from the prior in training.

        Raises:
            ForecastError: a lone one of either kind, which no fair score can rate.
        """
        count = round(self.section.prior_share * members)
        if members > 1 and 1 in (count, members - count):
            raise ForecastError(
                f"model.prior_share={self.section.prior_share:g} of {members} members draws {count} from the prior and "
                f"{members - count} from the posterior: give each none or at least two, e.g. 0, 1, or 0.5 of 4 members"
            )
        return count

    def _advance(
        self,
        past: list[Tensor],
        forcings: Tensor,
        from_analysis: Tensor,
        times: Tensor,
        noise: Tensor,
        truth: Tensor | None = None,
    ) -> Outcome:
        known = forcings, self._told(times)
        rows = max(state.shape[1] for state in past)
        past = [state.expand(-1, rows, -1, -1) for state in past]
        with torch.autocast(
            noise.device.type, torch.bfloat16, enabled=multiplies_in_half(self.precision, noise.device)
        ):
            if truth is None:
                return Outcome(*self._decode(past, self._draw(self.prior(past, known, noise), noise), known), {})
            if noise.shape[1] == 1:
                return Outcome(*self._decode(past, None, known), {})
            return self._train(past, truth, known, noise)

    def _train(self, past: list[Tensor], truth: Tensor, known: Known, noise: Tensor) -> Outcome:
        """A step of several members; those of the posterior come first."""
        members = noise.shape[1]
        chosen = slice(0, self._of_posterior(members))
        others = slice(chosen.stop, members)
        p = self.prior(past, known, noise)
        if self.network.posterior is None:
            return Outcome(*self._decode(past, self._draw(p, noise), known), {})
        states = past if past[0].shape[1] == 1 else [state[:, chosen] for state in past]
        q = self.posterior(states, truth, known, noise[:, chosen])
        p_chosen = p.of_members(chosen)
        drawn = [self._draw(q, noise[:, chosen])]
        if others.start < members:
            drawn.append(self._draw(p.of_members(others), noise[:, others]))
        kl = divergence(q, p_chosen, self.network.areas, self.section.divergence)
        state, features = self._decode(past, torch.cat(drawn, dim=1), known)
        shown = {"kl": kl, "beta": kl.new_tensor(self.beta)}
        return Outcome(state, features, {"kl": self.beta * kl} if self.section.divergence.beta else {}, shown)

    def _of_posterior(self, members: int) -> int:
        """How many of the members that are computed here are drawn from the posterior."""
        return members - self.prior_members(members)

    def prior(self, past: list[Tensor], known: Known, noise: Tensor) -> Gaussian:
        """P of past states (B, M or 1, G, P); noise (B, M, n), which decides dropout."""
        return self.network.distribution(self.network.prior, self._inputs(past), *known, self._flat(noise))

    def posterior(self, past: list[Tensor], truth: Tensor, known: Known, noise: Tensor) -> Gaussian:
        """Q of past states and the state to be forecast (B, G, V)."""
        seen = truth[:, None].expand(-1, past[0].shape[1], -1, -1)
        net = self.network.posterior
        return self.network.distribution(net, torch.cat([self._inputs(past), seen], dim=-1), *known, self._flat(noise))

    def _draw(self, of: Gaussian, noise: Tensor) -> Tensor:
        """(B, M, G, T * P) fields to be added to the input states."""
        size = of.mean.shape[2] * of.mean.shape[3] + self.section.latent.rank
        return self.network.spread_out(of.draw(self._flat(noise)[..., :size]))

    def _decode(self, past: list[Tensor], drawn: Tensor | None, known: Known) -> tuple[Tensor, Features]:
        """The next states (B, M, G, V), normalised, from past ones and what is added to them."""
        p, members = self.prognostic, past[0].shape[1] if drawn is None else drawn.shape[1]
        if drawn is not None:
            pieces = drawn.unflatten(-1, (-1, p)).unbind(-2)
            given = [state + piece for state, piece in zip(past, pieces, strict=True)]
        else:
            given = past
        state, features = self.network.decode(self._inputs(given), *known)
        if self.section.output == "increment":
            newest = past[-1].expand(-1, members, -1, -1)
            base = torch.cat([newest, self.mean[p:].expand(*newest.shape[:-1], -1)], dim=-1)
            state = base + state * self.step_scale
        return torch.maximum(state, self.lower), features

    def _inputs(self, past: list[Tensor]) -> Tensor:
        """(B, M or 1, G, T * V) with zeros for diagnostic variables, as the released network gives accumulated ones."""
        diagnostic = len(self.fields.diagnostic)
        return torch.cat([torch.nn.functional.pad(state, (0, diagnostic)) for state in past], dim=-1)

    def _told(self, times: Tensor) -> Tensor:
        """Times as the network is told them."""
        return torch.cat([times[:, :1].clamp_max(self.section.last_step), times[:, 1:]], dim=1)

    def _flat(self, noise: Tensor) -> Tensor:
        return noise.squeeze(-1)

    def _score(self, members: Tensor, truth: Tensor) -> Tensor:
        """Members of posterior and prior are scored apart: together they are no sample of either."""
        total = members.shape[1]
        count = self.prior_members(total)
        if total == 1 or count in (0, total):
            return super()._score(members, truth)
        parts = members.split([total - count, count], dim=1)
        posterior, prior = (self.score(part, truth) for part in parts)
        return ((total - count) * posterior + count * prior) / total

    @torch.no_grad()
    def diagnose(self, batches: Iterable[Batch], members: int, seed: int) -> dict[str, dict[str, list[float | None]]]:
        """Signs of life of the latent at the first step of some windows; see `diagnosis.Summary`."""
        summary = diagnosis.Summary(self.fields, self.network.areas, self.weights.sum(dim=1))
        for batch in batches:
            inputs = batch.input_steps
            states, present = self._imputed(self.normalise(batch.states))
            past = [states[:, None, t, :, : self.prognostic] for t in range(inputs)]
            known = self._forcings(batch.forcings)[:, inputs - 1], clock(batch.dates[:, inputs - 1], 0, states.device)
            keys = [seeding.key(seed, "diagnosis", key, member) for key in batch.keys for member in range(members)]
            noise = self.draw(keys).unflatten(0, (len(batch.keys), members))
            p, truth = self.prior(past, known, noise), states[:, inputs]
            made = {"prior": self._decode(past, self._draw(p, noise), known)[0]}
            q = None
            if self.network.posterior is not None:
                q = self.posterior(past, truth, known, noise)
                made["posterior"] = self._decode(past, self._draw(q, noise), known)[0]
            there = torch.ones_like(truth, dtype=torch.bool) if present is None else present[:, inputs]
            scores = {
                name: losses.fair_crps(state, truth, reduction="none").where(there, 0.0) for name, state in made.items()
            }
            summary.add(p, q, scores)
        return summary.report()
