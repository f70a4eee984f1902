import pytest

from nbutils.core import UserError
from nbutils.pipeline.leaderboard import compare_runs, story
from nbutils.pipeline.run import Run


def test_a_leaderboard_ranks_by_lift_and_tells_what_it_leaves_out(short, tmp_path, outputs):
    def write(name, lift, chunk_size, error=None):
        run = Run(name, outputs)
        parameters = {"RUN_NAME": name, "CHUNK_SIZE": chunk_size, "SEED": 0, "TRAIN_FILES": ["/x/a.pdf"]}
        run.record("01_build_corpus", parameters=parameters, seconds=60.0, error=error)
        if error:
            return
        usage = {"training": {"calls": 3, "cost": 0.25}, "validation": {"calls": 2, "cost": 0.5}}
        run.record("02_generate_questions", usage=usage, seconds=60.0)
        run.path("results", "metrics.csv").write_text(
            "question_set,system,metric,value,low,high,questions,chunks\n"
            f"gold,base,mrr@10,0.5,0.4,0.6,20,9\ngold,fine-tuned,mrr@10,{0.5 + lift},0.4,0.7,20,9\n"
        )
        run.path("results", "differences.csv").write_text(
            "question_set,system,base,metric,difference,low,high,p,p_holm\n"
            f"gold,fine-tuned,base,mrr@10,{lift},{lift - 0.1},{lift + 0.1},0.01,0.02\n"
        )

    write("low", 0.01, 128)
    write("high", 0.2, 256)
    write("broken", 0, 512, error="no text")
    board = compare_runs(outputs=outputs)
    assert list(board.table.run) == ["high", "low"]
    assert board.differing == ["CHUNK_SIZE"]
    assert (board.table.minutes[0], board.table.calls[0], board.table.cost[0]) == (2.0, 5, 0.75)
    assert board.left_out.to_dict("records") == [{"run": "broken", "step": "01_build_corpus", "reason": "no text"}]
    assert board.shown().lift.iloc[0] == "+0.200 [+0.100, +0.300]"
    Run("low", outputs).record("02_generate_questions", error="out of budget")
    assert compare_runs(outputs=outputs).left_out.reason.to_list() == ["no text", "out of budget"], (
        "old results don't count"
    )
    record = Run("high", outputs).record
    record("02_generate_questions", execution="two")
    record("04_evaluate_models", after={"02_generate_questions": "one"})
    with pytest.raises(UserError, match="high, 04_evaluate_models: 02_generate_questions was run again after it"):
        compare_runs(["high"], outputs=outputs)
    record("04_evaluate_models", after={"02_generate_questions": "two"})
    with pytest.raises(UserError, match=r"no metric 'x'.*mrr@10"):
        compare_runs(outputs=outputs, metric="x")
    with pytest.raises(UserError, match="no run nobody"):
        compare_runs(["nobody"], outputs=outputs)
    assert "Left out:\n  broken, 01_build_corpus: no text" in board.to_text()
    with pytest.raises(UserError, match=r"has results yet(.|\n)*broken, 01_build_corpus: no text"):
        compare_runs(["broken"], outputs=outputs)


def test_a_story_pairs_steps_of_different_runs_by_their_questions(outputs):
    def write(name, questions, **hits):
        rows = [
            f"gold,{system.replace('_', ' ')},q{i},{question},c{i // 2},{hit}\n"
            for system, found in hits.items()
            for i, (question, hit) in enumerate(zip(questions, found, strict=True))
        ]
        Run(name, outputs).path("results", "per_query.csv").write_text(
            "question_set,system,query,question,expected,hit_rate@5\n" + "".join(rows)
        )

    asked = [f"what is {i}?" for i in range(40)]
    write("one", asked, base=[0] * 20 + [1] * 20, BM25=[0] * 40)
    write("two", asked, base=[1] * 40, on_all=[0] * 10 + [1] * 30)
    write("other", [*asked[:-1], "else?"], on_all=[1] * 40)
    steps = {"base model": "one/base", "keyword search": "one/BM25", "trained": "two/on all", "else": "other/on all"}
    table = story(steps | {"nothing": "none/base", "no such": "two/none"}, outputs=outputs)
    assert list(table.name) == ["base model", "keyword search", "trained"]
    assert table.score.to_list() == [0.5, 0.0, 0.75]
    low, high = table.low[2], table.high[2]
    assert 0.5 < low < 0.75 < high < 1 and table.low.isna()[0], "paired with the base of run one, not of its own"
    assert story({"x": "none/base"}, outputs=outputs).empty
