import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity

from forecast.core.errors import ForecastError
from forecast.losses.experimental.multilabel import hybrid_multilabel
from forecast.losses.registry import entry
from tests.losses import laws
from tests.losses.laws import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")

LABELS = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)


def labelled(n):
    return normal(n, 3), LABELS[:n], normal(n, 4, seed=3)


CASES = [Case("hybrid_multilabel", hybrid_multilabel, labelled, {"pos_weights": (1.0, 2.0, 3.0)}, fixed=(1,))]


@laws.over(CASES, without=("empty_is_zero", "masked_is_not_looked_at"))  # terms of the whole batch; tested below
def test_laws(law, case):
    law(case)


def test_parts_by_definition():
    f, y, z = labelled(5)
    entropy = binary_cross_entropy_with_logits(f, y, pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    plain = hybrid_multilabel(f, y, pos_weights=(1.0, 2.0, 3.0), correlation=0.0)
    torch.testing.assert_close(plain, entropy)
    p, c = f.sigmoid(), torch.corrcoef(y.T)
    pairs = [(0, 1), (0, 2), (1, 2)]
    together = sum(max(c[a, b], 0) * (p[:, a] - p[:, b]).square().mean() for a, b in pairs) / 3
    with_it = hybrid_multilabel(f, y, pos_weights=(1.0, 2.0, 3.0), correlation=2.0)
    torch.testing.assert_close(with_it, entropy + 2 * together)
    terms = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        log_q = torch.stack([cosine_similarity(z[i], z[j], 0) / 0.5 for j in others]).log_softmax(0)
        alike = torch.stack([(y[i] * y[j]).sum() / ((y[i] + y[j]) > 0).sum().clamp_min(1) for j in others])
        terms.append(-(alike * log_q).sum() / alike.sum() if alike.sum() > 0 else torch.tensor(0.0))
    contrasted = hybrid_multilabel(f, y, z, correlation=0.0, contrast=1.0, temperature=0.5)
    torch.testing.assert_close(contrasted, binary_cross_entropy_with_logits(f, y) + sum(terms) / 5)


def test_ends():
    assert entry("hybrid_multilabel").status == "from memory"
    f, y, z = (x[:0] for x in labelled(5))
    value = hybrid_multilabel(f.requires_grad_(), y, z.requires_grad_())
    value.backward()
    assert value.item() == 0
    one = hybrid_multilabel(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 2))
    assert one.item() == pytest.approx(math.log(2))
    none_kept = hybrid_multilabel(*labelled(5), mask=torch.zeros(3, dtype=torch.bool))
    assert none_kept.item() == 0


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ((torch.zeros(2), torch.zeros(2)), {}, "logits"),
        ((torch.zeros(2, 3), torch.full((2, 3), 2.0)), {}, "labels: 2"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 4)), {}, "features of shape"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {"pos_weights": (1.0,)}, "pos_weights"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_bad_input(given, options, words):
    with pytest.raises(ForecastError, match=words):
        hybrid_multilabel(*given, **options)
