import pytest

from nbutils.core import UserError
from nbutils.training.documented import DocumentedEngine

pytestmark = pytest.mark.slow


def test_the_documented_engine_trains_and_refuses_what_it_lacks(tiny, dataset, tmp_path):
    pytest.importorskip("llama_index.finetuning", exc_type=ImportError)
    seen = []
    engine = DocumentedEngine(
        dataset, tiny, tmp_path / "out", epochs=1, show_progress_bar=False, on_progress=seen.append
    )
    engine.finetune()
    assert engine.summary["recipe"] == {"engine": "llama-index", "epochs": 1, "batch_size": 10}
    assert len(engine.get_finetuned_model().get_query_embedding("net debt")) == 32
    assert len(seen) == 1 and engine.dev_dataset is None
    with pytest.raises(UserError, match="learning_rate"):
        DocumentedEngine(dataset, tiny, tmp_path / "out", learning_rate=1e-4)
