"""What questions would cost."""

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from openai_server import serving
from question_helpers import CONTENTS, make_llm, make_nodes

from nbutils.core import UserError
from nbutils.questions.estimate import estimate_questions
from nbutils.questions.generate import generate_qa_embedding_pairs
from nbutils.questions.settings import Budget


def test_the_estimate_matches_what_is_asked(out):
    nodes = [*make_nodes(9), TextNode(id_="contents", text=CONTENTS), TextNode(id_="copy", text=make_nodes(1)[0].text)]
    prices = {"input": 0.5, "output": 1.5}

    def estimate(llm, **options):
        return estimate_questions({"training": nodes}, llm, output_path=out, **options).loc["training"]

    with serving(delay=0.05) as server:
        llm = make_llm(server.url)
        before = estimate(llm, prices=prices, seconds_per_call=0.05, concurrency=3)
        assert server.calls == 0 and not list(out.parent.iterdir())
        assert (before["chunks"], before["skipped"], before["calls"]) == (11, 1, 9)
        assert before["seconds"] == pytest.approx(3 * 0.05, abs=0.06)
        assert before["cost"] == pytest.approx((before["tokens_in"] * 0.5 + before["tokens_out"] * 1.5) / 1e6, abs=1e-6)
        generate_qa_embedding_pairs(nodes, llm, output_path=out, budget=Budget(5), verbose=False)
        after = estimate(llm, prices=prices)
        assert (after["already_done"], after["calls"]) == (5, 4)
        assert estimate(llm, budget=Budget(7))["calls"] == 2
    assert estimate(MockLLM())["calls"] == 9


def test_the_estimate_shows_whole_numbers_no_cost_without_prices_and_shares_the_budget(out):
    sets = {"training": make_nodes(6), "validation": make_nodes(3, start=6)}
    table = estimate_questions(sets, MockLLM(), output_path=out)
    assert table["calls"].to_dict() == {"training": 6, "validation": 3, "all": 9}
    assert "cost" not in table and "." not in table.drop(columns="seconds").to_string()
    capped = estimate_questions(sets, MockLLM(), output_path=out, budget=Budget(6))
    assert capped["calls"].to_dict() == {"training": 4, "validation": 2, "all": 6}


def test_an_estimate_needs_no_key(out, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    estimate = estimate_questions({"training": make_nodes(3)}, "openai:gpt-4o-mini", output_path=out).loc["training"]
    assert estimate["calls"] == 3 and estimate["tokens_in"] > 300
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        generate_qa_embedding_pairs(make_nodes(3), "openai:gpt-4o-mini", output_path=out, verbose=False)
    with pytest.raises(UserError, match="gpt:5"):
        estimate_questions({"training": make_nodes(3)}, "gpt:5", output_path=out)
