"""How each loss of the library stands in a config: what it is a term of, and what it must be told."""

from __future__ import annotations

from typing import Any

RAIN = {"variable": "tp", "above": 0.002}
HAZARDS = {"variable": "tp", "above": [0.0005, 0.002, 0.005]}
BINS = {"variable": "10u", "edges": [-5.0, 0.0, 5.0]}
FORGET = ["2001-01-01", "2001-01-03"]
CRPS = {"name": "almost_fair_crps"}
WAVES = {"transform": {"name": "harmonics", "truncation": 5}}

APART = {
    "alpha_norm": "a layer, which gives normalised features and no number to minimise",
    "ensemble_vae": "the loss of a variational forecaster, with whose posterior it comes",
}

KINDS: dict[str, dict[str, Any]] = {
    "ensemble": {"of": "members"},
    "field": {"of": "members"},
    "event": {"of": "event", "event": RAIN},
    "maps": {"of": "event", "event": RAIN},
    "classes": {"of": "event", "event": BINS},
    "rows": {"of": "event", "event": BINS},
    "teacher": {"of": "event", "event": BINS, "teacher": "TEACHER"},
    "latent": {"of": "latent"},
    "parameters": {"of": "weights"},
    "other": {"of": "members"},
}
"""what a loss is a term of, by what it takes"""


def _options(**options: Any) -> dict[str, Any]:
    return {"options": options}


def _of(kind: str, **more: Any) -> dict[str, Any]:
    return KINDS.get(kind, {"of": kind}) | more


PRECIPITATION = {"of": "distribution", "variable": "tp"}
TAUGHT = {"of": "members", "teacher": "TEACHER"}
BINNED, HEARD = _of("classes"), _of("critic", event=BINS)

OWN: dict[str, dict[str, Any]] = {
    # of members
    "threshold_weighted_crps": _options(above=0.5),
    "outcome_weighted_crps": _options(centre=0.5, width=1.0),
    "vertically_rescaled_crps": _options(above=0.5),
    "weighted_crps": _options(member_weights=[0.5, 0.5]),
    "ensemble_brier": _options(threshold=0.5),
    "variogram_score": _options(pairs=200),
    "spectral_crps": _options(**WAVES),
    "amse": _options(**WAVES),
    "log_spectral_distance": _options(**WAVES),
    "fourier_correlation": _options(**WAVES),
    "transformed": _options(base=CRPS, **WAVES),
    "multiscale": _options(base=CRPS, radii_km=[2000.0, 1000.0]),
    "masked": _options(base=CRPS),
    "combined": _options(terms={"a": CRPS}),
    "pinball": _options(levels=[0.25, 0.75]),
    "multi_persistence": {"of": "members"},
    "multivariate_dawid_sebastiani": _options(shrinkage=0.5),
    "frechet_distance": TAUGHT,
    "self_distillation": TAUGHT,
    "assistive_teacher_regression": TAUGHT,
    "f_distill": TAUGHT,
    "score_forgetting": TAUGHT | {"forget": FORGET},
    "bias_aware": TAUGHT,
    "time_aggregate": _of("rollout") | _options(base=CRPS),
    "multi_horizon_consistency": _of("rollout"),
    # of explicit distributions
    "gamma_crps": PRECIPITATION,
    "censored_shifted_gamma_crps": PRECIPITATION,
    "gev_crps": PRECIPITATION,
    "censored_gaussian_crps": PRECIPITATION,
    "truncated_gaussian_crps": PRECIPITATION,
    "lognormal_crps": {"of": "distribution", "variable": "msl"},
    # of events
    "multi_grained_focal": _of("event", event=HAZARDS),
    "asymmetric_focal": _of("event", event=HAZARDS),
    "decoupled_softmax": _of("event", event=HAZARDS),
    "soft_top_k": _of("event", event=HAZARDS) | _options(k=1),
    "hybrid_multilabel": _of("event", event=HAZARDS),
    "aldr": _options(samples=400 * 8192),
    "gaussian_soft_label_kl": BINNED,
    "correctness_calibration": BINNED,
    "normalized_softmax": BINNED,
    "class_correlation": BINNED,
    "smooth_adversarial_comp_sum": BINNED,
    "robust_temperature": BINNED,
    "preference_to_classify": BINNED,
    "group_progressive_guidance": BINNED,
    "gradient_matching": BINNED,
    "flat": BINNED | {"forget": FORGET},
    "explanation_consistency": BINNED | {"teacher": "TEACHER"},
    "proto_triplet": BINNED,
    "icnn": BINNED,
    "unified_negative_pairs": BINNED,
    "hyperbolic_cross_entropy": BINNED,
    "supervised_alignment": BINNED,
    # of the latent
    "individual_temperature": _options(samples=400 * 162),
    "contractive_reconstruction": _of("latent"),
    "denoising_reconstruction": _of("latent"),
    "sliced_score_matching": _of("latent"),
    "mi_alpha": _of("latent"),
    "wasserstein_dependency": _of("latent"),
    "representation_gap": _of("latent", forget=FORGET, teacher="TEACHER"),
    "forgetting_contrast": _of("latent", forget=FORGET, teacher="TEACHER"),
    "aux_k": _of("code"),
    "aux_zipf": _of("code"),
    "attention_entropy": _of("attention"),
    "attention_entropy_maximization": _of("attention"),
    # of a critic
    "adc_discriminator": HEARD,
    "adc_generator": HEARD,
    "hinge_discriminator": _of("critic"),
    "hinge_generator": _of("critic"),
    "gradient_penalty": _of("critic"),
    "noise_contrastive": _of("critic"),
    "unnormalized_nll": _of("critic"),
    "recovery_likelihood": _of("critic"),
    "marginal_consistency": _of("critic"),
    # of weights
    "group_sparse_envelope": _options(k=8),
}
"""what is told beside, or in place of, what a loss takes"""


def term(name: str, takes: str) -> dict[str, Any]:
    """The term of a config that trains with the loss `name`."""
    own = OWN.get(name, {})
    return {"loss": name, **(own if "of" in own else KINDS[takes] | own)}
