import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.training.loss import GroupedRankingLoss, chunk_targets
from nbutils.training.weights import pass_sparse_gradients


class Lookup(torch.nn.Module):
    """A model whose vectors stand in a table: token id -> vector."""

    def __init__(self, rows: int, size: int = 6):
        super().__init__()
        self.table = torch.nn.Embedding(rows, size)

    def forward(self, features):
        mask = features["attention_mask"][..., None]
        return {"sentence_embedding": (self.table(features["input_ids"]) * mask).sum(1) / mask.sum(1)}


def reference(q, c, own, answers, scale):
    """The loss of GroupedRankingLoss, one term at a time."""
    q, c = torch.nn.functional.normalize(q, dim=1), torch.nn.functional.normalize(c, dim=1)
    forward, backward = [], []
    for i in range(len(q)):
        right = torch.exp(scale * q[i] @ c[own[i]])
        wrong = sum(torch.exp(scale * q[i] @ c[k]) for k in range(len(c)) if k not in answers[i] and k != own[i])
        wrong += sum(torch.exp(scale * q[i] @ q[j]) for j in range(len(q)) if own[j] != own[i])
        forward.append(-torch.log(right / (right + wrong)))
        wrong = sum(
            torch.exp(scale * c[own[i]] @ q[j]) for j in range(len(q)) if own[j] != own[i] and own[i] not in answers[j]
        )
        backward.append(-torch.log(right / (right + wrong)))
    return (torch.stack(forward).mean() + torch.stack(backward).mean()) / 2


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_loss_is_the_reference_whatever_the_sub_batches(data):
    chunks = data.draw(st.integers(2, 5))
    own = [chunk for chunk in range(chunks) for _ in range(data.draw(st.integers(1, 3)))]
    answers = [[own[i], *data.draw(st.lists(st.integers(0, chunks - 1), max_size=2))] for i in range(len(own))]
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = Lookup(40)

    def tokens(rows):
        lengths = torch.randint(1, 6, (rows,))
        mask = (torch.arange(5) < lengths[:, None]).long()
        ids = torch.randint(1, 40, (rows, 5)) * mask
        return {"input_ids": ids, "attention_mask": mask, "lengths": lengths.tolist()}

    features = [tokens(len(own)), tokens(chunks)]
    labels = {"query": list(range(len(own))), "chunk": list(range(chunks)), "own": own}
    expected = reference(*(model(f)["sentence_embedding"] for f in features), own, answers, 5.0)
    expected.backward()
    gradient = model.table.weight.grad.clone()
    for per_pass, kept, sparse in ((1000, None, False), (7, 0, False), (5, 10, True), (7, 0, True)):
        model.zero_grad()
        if sparse and not model.table.sparse:
            pass_sparse_gradients(model.table)
        loss = GroupedRankingLoss(model, answers, scale=5.0, tokens_per_pass=per_pass, tokens_kept=kept)
        value = loss(features, labels)
        value.backward()
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
        assert not model.table.weight.grad.is_sparse
        assert torch.allclose(model.table.weight.grad, gradient, atol=1e-5)


def test_each_question_s_own_chunk_is_its_whole_target():
    own, answers = torch.tensor([0, 0, 2]), torch.eye(3, dtype=torch.bool)[[0, 0, 2]]
    scores = np.ones((3, 3), np.float32)
    for targets in (chunk_targets(own, answers), chunk_targets(own, answers, scores, 1.0)):
        assert targets.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_soft_targets_mix_the_own_chunk_with_a_softmax_of_the_teacher_and_skip_other_answers():
    own, answers = torch.tensor([1, 0]), torch.tensor([[False, True, True], [True, False, False]])
    scores = np.array([[0.2, 0.5, 9.0], [1.0, 0.4, -0.3]], np.float32)
    targets = chunk_targets(own, answers, scores, 0.7).numpy()
    first = np.exp(np.array([0.2, 0.5]) / 0.3)
    second = np.exp(scores[1] / 0.3)
    np.testing.assert_allclose(targets[0], np.append(0.3 * first / first.sum(), 0) + np.array([0, 0.7, 0]), rtol=1e-5)
    np.testing.assert_allclose(targets[1], 0.3 * second / second.sum() + np.array([0.7, 0, 0]), rtol=1e-5)
