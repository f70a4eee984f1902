"""The checks of the exercises: each says what is still wrong, and not how to put it right."""

import itertools
import json
import math
import numbers
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nbutils.core import UserError


class NotYet(AssertionError):
    """Something in an exercise is still missing or wrong; a notebook shows its one sentence and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"✗ Not yet. {self}"]


def _need(condition: object, hint: str) -> None:
    if not condition:
        raise NotYet(hint)


def _done(text: str) -> None:
    print(f"✓ {text}")


def _number(value: object, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        shown = repr(value) if value is None or isinstance(value, str) else f"of type {type(value).__name__}"
        raise NotYet(f"`{name}` is {shown}; it should be one number.") from None
    _need(not math.isnan(number), f"`{name}` is not a number (NaN).")
    return number


# 1 · Chunking


def unseen_share(value: object, summary) -> None:
    """Check the share of tokens that the model never sees, against a `corpus_summary`."""
    share, row = _number(value, "unseen"), summary.loc["all"]
    _need(0 <= share <= 1, f"`unseen` is {share:g}; a share lies between 0 and 1.")
    cut = row["chunks_cut"] / row["chunks"]
    _need(
        not math.isclose(share, cut, abs_tol=5e-3),
        "That is the share of *chunks* that are cut off. How much of the *text* is lost?",
    )
    _need(math.isclose(share, row["share_unseen"], abs_tol=5e-3), f"{share:.3f} is not it. Which row is all documents?")
    _done(f"{share:.0%} of the report's tokens can't be found by any question.")


def cut(nodes: Sequence, plain: Sequence, tokenizer, limit: int) -> None:
    """Check chunks for what the model can't read, for repetition, and for chunks that say too little.

    Args:
        nodes: the learner's chunks.
        plain: the same documents in chunks without overlap.
        tokenizer: the model's.
        limit: tokens that the model reads.
    """
    from nbutils.corpus.lengths import corpus_summary

    def words(chunks: Sequence) -> list[int]:
        return [len(node.text.split()) for node in chunks]

    unseen = corpus_summary(nodes, tokenizer, limit).loc["all", "share_unseen"]
    _need(unseen < 0.01, f"{unseen:.0%} of the tokens still lie beyond the model's limit.")
    repeated = sum(words(nodes)) / sum(words(plain)) - 1
    _need(repeated < 0.3, f"Your chunks repeat {repeated:.0%} of the text. What does the splitter do with the overlap?")
    median = sorted(words(nodes))[len(nodes) // 2]
    _need(
        median >= 80, f"Half of your chunks have fewer than {median + 1} words: too little to say what they are about."
    )
    texts = [node.text for node in nodes]
    shared = sum(any(a.endswith(b[:n]) for n in range(20, 400)) for a, b in itertools.pairwise(texts))
    _need(shared > 0, "A fact that stands across a boundary is in neither chunk as a whole. How can both have it?")
    _done(f"{len(nodes)} chunks, {unseen:.1%} unseen, {repeated:.0%} of the text repeated.")


def holds(text: str, quote: str) -> bool:
    """Whether a text holds a quote: at least four in five of its runs of three words."""
    from nbutils.evaluation.leaks import plain_words, shingles

    wanted = shingles(plain_words(quote), 3)
    return len(wanted & shingles(plain_words(text), 3)) >= 0.8 * len(wanted)


def same_amount_of_text(top_k: Mapping[int, int], sizes: Sequence[int], budget: int) -> None:
    """Check that each chunk size is given about the same number of tokens to show."""
    _need(isinstance(top_k, Mapping) and set(top_k) >= set(sizes), f"`top_k` needs a number for each of {list(sizes)}.")
    for size in sizes:
        _need(
            isinstance(top_k[size], numbers.Integral) and top_k[size] >= 1,
            f"top_k[{size}] is {top_k[size]}; use a whole number.",
        )
    shown = {size: size * top_k[size] for size in sizes}
    low, high = min(shown, key=shown.get), max(shown, key=shown.get)
    _need(
        shown[high] <= 1.3 * shown[low],
        f"With chunks of {high} a reader gets {shown[high]:,} tokens, with chunks of {low} only {shown[low]:,}. "
        "More text holds the answer more often.",
    )
    _need(
        budget / 1.3 <= shown[low] <= 1.3 * budget,
        f"All get the same, but about {shown[low]:,} tokens, not {budget:,}.",
    )
    _done("A fair comparison: " + ", ".join(f"{k} × {size}" for size, k in top_k.items()) + " tokens.")


def choice(size: object, found: Mapping[int, float], questions: int) -> None:
    """Check that the chosen chunk size is the best one or can't be told from it."""
    _need(size in found, f"`best` is {size!r}; choose one of {list(found)}.")
    top = max(found.values())
    margin = 2 * math.sqrt(top * (1 - top) / questions)
    _need(found[size] >= top - margin, f"Another size finds {top - found[size]:.0%} more of the answers. Look again.")
    near = [str(other) for other in found if other != size and found[other] >= top - margin]
    tail = f" {' and '.join(near)} can't be told from it with {questions} questions." if near else ""
    _done(f"{size} finds {found[size]:.0%} of the answers.{tail}")


# 2 · Questions

_LEANS = re.compile(
    r"\b(this|the|that)\s+(passage|text|section|table|paragraph|document|excerpt|chunk)\b|\b(above|below|following)\b",
    re.I,
)
FAULTS = {
    "fine": "fine",
    "leans": "makes no sense without the passage",
    "vague": "fits a hundred other passages",
    "tells": "gives its own answer",
    "copies": "copies the passage word for word",
    "elsewhere": "is not answered by the passage",
}
_LABELS = ("fine", "leans", "tells", "vague", "copies", "fine", "elsewhere")


def labels(given: Sequence[object]) -> None:
    """Check what is wrong with each of seven questions."""
    _need(isinstance(given, Sequence) and not isinstance(given, str), "`labels` should be a list.")
    unknown = [label for label in given if label not in FAULTS]
    _need(len(given) == len(_LABELS), f"There are {len(_LABELS)} questions; you labelled {len(given)}.")
    _need(not unknown, f"{unknown[0]!r} is no label. Use {', '.join(FAULTS)}." if unknown else "")
    right = sum(a == b for a, b in zip(given, _LABELS, strict=True))
    _need(right == len(_LABELS), f"{right} of {len(_LABELS)} are right. Read the passage again, slowly.")
    _done("All seven. You can read a training set now.")


def rule(write: Callable[[str], list[str]], nodes: Sequence, least: int = 30) -> dict[str, str]:
    """Check a question writer on many chunks and return its questions with the ids of their chunks.

    Args:
        write: text of a chunk -> questions about it.
        nodes: the chunks.
        least: questions that must come out of all chunks.
    """
    from nbutils.evaluation.leaks import plain_words, shingles
    from nbutils.models.search import bm25_search

    asked: list[tuple[str, object]] = []
    for node in nodes:
        questions = write(node.text)
        fine = isinstance(questions, list) and all(isinstance(question, str) for question in questions)
        _need(fine, f"Your rule gave {questions!r}; it should give a list of strings, empty where it finds nothing.")
        asked += [(question, node) for question in questions]
    _need(asked, "Your rule asks nothing at all.")
    for question, node in asked:
        _need(not _LEANS.search(question), f"{question!r} makes no sense to somebody who does not have the passage.")
        _need(len(question.split()) >= 5, f"{question!r} is too short to be about one thing.")
        copied = shingles(plain_words(question), 9) & shingles(plain_words(node.text), 9)
        copied = {run for run in copied if len(run) == 9}
        _need(not copied, f"{question!r} copies nine words in a row. Nobody searches for whole sentences.")
    counts = Counter(question for question, _ in asked)
    common, times = counts.most_common(1)[0]
    repeated = 1 - len(counts) / len(asked)
    _need(
        repeated <= 0.15,
        f"{repeated:.0%} of the questions repeat another; {common!r} comes {times} times. Which chunk is it for?",
    )
    _need(len(asked) >= least, f"{len(asked)} questions from {len(nodes)} chunks; {least} is the least to train on.")
    ids, texts = [node.id_ for node in nodes], [node.text for node in nodes]
    ranking = bm25_search([question for question, _ in asked], texts, ids, depth=5)
    missed = [
        (question, texts[best[0]])
        for (question, node), best in zip(asked, ranking.index, strict=True)
        if node.id_ not in [ids[i] for i in best if i >= 0]
    ]
    example = f"{missed[0][0]!r} leads to {missed[0][1][:90]!r}…" if missed else ""
    share = 1 - len(missed) / len(asked)
    _need(
        share >= 0.6,
        f"Keyword search finds the right chunk for only {share:.0%} of the questions. For example, {example}",
    )
    _done(f"{len(asked)} questions; keyword search finds the right chunk for {share:.0%} of them.")
    return {question: node.id_ for question, node in asked}


def reworded(reword: Callable[[str], str], asked: Mapping[str, str], nodes: Sequence) -> dict[str, str]:
    """Check that questions now use other words than their chunks, and return them with the ids of their chunks."""
    texts = {node.id_: node.text for node in nodes}
    new = {reword(question): chunk for question, chunk in asked.items()}
    _need(all(isinstance(question, str) for question in new), "Your rewording should give a string.")
    changed = len(set(new) - set(asked)) / len(asked)
    _need(
        changed >= 0.5, f"Only {changed:.0%} of the questions changed. Which of their words does a searcher not know?"
    )
    before, after = _overlap(asked, texts), _overlap(new, texts)
    _need(len(new) >= 0.8 * len(asked), "Many questions have become the same question. What told them apart?")
    _need(after <= before - 0.1, f"{after:.0%} of a question's words still stand in its chunk ({before:.0%} before).")
    _need(after >= 0.25, f"Only {after:.0%} of a question's words are left from its chunk; is it still about it?")
    _done(f"{after:.0%} of a question's words stand in its chunk, {before:.0%} before.")
    return new


def _overlap(asked: Mapping[str, str], texts: Mapping[str, str]) -> float:
    from nbutils.evaluation.leaks import wording_overlap
    from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

    queries = {str(i): question for i, question in enumerate(asked)}
    relevant = {str(i): [chunk] for i, chunk in enumerate(asked.values())}
    return float(
        wording_overlap(EmbeddingQAFinetuneDataset(queries=queries, corpus=dict(texts), relevant_docs=relevant)).mean()
    )


# 3 · Negatives


def mask(may_be_wrong: object, owner: Sequence[int]) -> None:
    """Check which chunks may serve as wrong answers to which question of a batch."""
    owner = np.asarray(owner)
    size = len(owner)
    _need(isinstance(may_be_wrong, np.ndarray), "`may_be_wrong` should be a numpy array.")
    _need(may_be_wrong.shape == (size, size), f"It should have the shape ({size}, {size}), not {may_be_wrong.shape}.")
    given = may_be_wrong.astype(bool)
    _need(not given.diagonal().any(), "A question's own chunk counts as a wrong answer to it.")
    same = owner[:, None] == owner[None, :]
    row = np.flatnonzero((given & same).any(axis=1))
    _need(not len(row), f"Row {row[0] if len(row) else 0}: one of the wrong answers is the very chunk that answers it.")
    row = np.flatnonzero((~given & ~same).any(axis=1))
    _need(not len(row), f"Row {row[0] if len(row) else 0}: a chunk that does not answer the question is left out.")
    _done(f"{int(given.sum())} wrong answers for {size} questions, and none of them right.")


def loss(function: Callable[[np.ndarray, np.ndarray], float], owner: Sequence[int], scale: float = 20.0) -> None:
    """Check a cross-entropy over a question's own chunk and its wrong answers; shows which part is off."""
    owner = np.asarray(owner)
    size = len(owner)
    keep = owner[:, None] != owner[None, :]
    scores = np.random.default_rng(0).uniform(-1, 1, (size, size))

    def reference(mask_: np.ndarray, times: float, own: bool = True) -> np.ndarray:
        logits = np.exp(times * scores)
        wrong = (logits * mask_).sum(axis=1)
        return -np.log(logits.diagonal() / (wrong + own * logits.diagonal()))

    value = _number(function(scores, keep), "loss")
    right = reference(keep, scale)
    by_product = np.exp(scale * scores * keep).sum(axis=1)  # a score times False is 0, and e to that is 1
    own = np.exp(scale * scores).diagonal()
    by_column = (np.exp(scale * scores) * keep).sum(axis=0)
    wrongs = {
        "Chunks that are masked out still add something: what is e to the power of 0?": -np.log(
            own / (own + by_product)
        ).mean(),
        "Each question's wrong answers stand in its row; you went down the columns.": -np.log(
            own / (own + by_column)
        ).mean(),
        "Which logarithm is that? The formula has the natural one.": right.mean() / math.log(10),
        "The scores are cosines between -1 and 1; without the scale the softmax can't tell them apart.": reference(
            keep, 1
        ).mean(),
        "Chunks that are masked out still count as wrong answers.": reference(~np.eye(size, dtype=bool), scale).mean(),
        "The right answer itself is missing below the fraction line.": reference(keep, scale, own=False).mean(),
        "That is the sum over the questions; a batch twice as large should not have twice the loss.": right.sum(),
        "The sign is wrong: a loss should fall as the model gets better.": -right.mean(),
    }
    for hint, wrong in wrongs.items():
        _need(not math.isclose(value, wrong, rel_tol=1e-8), hint)
    _need(value >= 0, f"The loss is {value:.3f}; minus the logarithm of a probability is never negative.")
    _need(
        math.isclose(value, right.mean(), rel_tol=1e-6),
        f"For some random scores the loss is {value:.5f}, and should be {right.mean():.5f}.",
    )
    perfect = abs(_number(function(2.0 * np.eye(size) - 1, keep), "loss"))
    _done(f"The loss of random scores is {value:.2f}; a perfect model's is {perfect:.2f}.")


def floor(value: object, owner: Sequence[int]) -> None:
    """Check the loss of a perfect model where siblings count as wrong answers."""
    number = _number(value, "naive")
    same = np.asarray(owner)[:, None] == np.asarray(owner)[None, :]
    wanted = float(np.log(same.sum(axis=1)).mean())
    _need(number > 1e-3, "That is the loss with the siblings left out. What is it when they count as wrong answers?")
    _need(
        math.isclose(number, wanted, abs_tol=1e-3),
        f"{number:.3f} is not it. Both are scored by the same, perfect model.",
    )
    _done(f"{number:.2f} that no training can remove but by pulling questions away from the chunk that answers them.")


def hard_negatives(
    choose: Callable[[np.ndarray, int], int], scores: np.ndarray, own: Sequence[int], margin: float
) -> None:
    """Check the hard negative chosen for each question.

    Args:
        choose: scores of all chunks for one question, position of its own chunk -> position of the hard negative.
        scores: shape (questions, chunks).
        own: position of each question's own chunk.
        margin: a negative must score at least this share below the own chunk.
    """
    for row, mine in zip(scores, own, strict=True):
        got = choose(row.copy(), int(mine))
        _need(isinstance(got, int | np.integer) and 0 <= got < len(row), f"{got!r} is no position of a chunk.")
        _need(got != mine, "For one question you chose the chunk that answers it.")
        _need(
            abs(got - mine) > 1,
            "For one question you chose a neighbour of its chunk, which repeats the end or the beginning.",
        )
        limit = row[mine] - margin * abs(row[mine])
        _need(
            row[got] <= limit + 1e-9,
            f"For one question the chosen chunk scores {row[got]:.2f}, its own {row[mine]:.2f}: is it an answer, too?",
        )
        allowed = [i for i in range(len(row)) if abs(i - mine) > 1 and row[i] <= limit]
        _need(
            row[got] >= max(row[allowed]) - 1e-9,
            f"For one question a harder one was allowed: {max(row[allowed]):.2f} against {row[got]:.2f}.",
        )
    _done(f"{len(own)} hard negatives, none of them suspiciously close.")


# 4 · Evaluation


def metric(value: object, ranks, kind: str) -> None:
    """Check hit rate@5 or MRR@10 computed from ranks (missing beyond 100)."""
    number, filled = (
        _number(value, kind),
        np.array([math.inf if rank != rank else float(rank) for rank in ranks.astype(float)]),
    )
    _need(0 <= number <= 1, f"`{kind}` is {number:g}; it lies between 0 and 1.")
    found, inverse = filled < math.inf, 1 / filled
    cut_off = np.where(filled <= 10, inverse, 0.0)
    truth = {"hit_rate": (filled <= 5).mean(), "mrr": cut_off.mean()}[kind]
    wrongs = {
        "hit_rate": {
            "You left out the questions whose chunk was not found at all; they count as 0.": (
                filled[found] <= 5
            ).mean(),
            "Ranks begin at 1: the fifth is still among the first five.": (filled < 5).mean(),
        },
        "mrr": {
            "You left out the questions whose chunk was not found at all; they count as 0.": cut_off[found].mean(),
            "Beyond rank 10 the reciprocal rank counts as 0.": inverse.mean(),
            "You left out the questions whose rank is beyond 10; they count as 0.": inverse[filled <= 10].mean(),
            "The mean of the reciprocals is not the reciprocal of the mean.": 1 / filled[found].mean(),
        },
    }[kind]
    for hint, wrong in wrongs.items():
        same = math.isclose(number, wrong, abs_tol=1e-9) and not math.isclose(wrong, truth, abs_tol=1e-9)
        _need(not same, hint)
    _need(
        math.isclose(number, truth, abs_tol=1e-6),
        f"{number:.3f} is not it. Compute it by hand for the first five rows.",
    )
    _done(f"{kind} = {number:.3f}")


def paired_interval(low: object, high: object, before: np.ndarray, after: np.ndarray) -> None:
    """Check a 95 % bootstrap interval of the mean difference of two models on the same questions."""
    low, high = _number(low, "low"), _number(high, "high")
    difference = after - before
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference))
    separate = math.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    _need(low < high, "`low` should be less than `high`.")
    _need(low <= mean <= high, f"The difference itself, {mean:+.3f}, lies outside your interval.")
    width, wanted = high - low, 2 * 1.96 * error
    looks_separate = abs(width / (3.92 * separate) - 1) < 0.12 and separate > 1.15 * error
    _need(
        not looks_separate,
        "That is as wide as if each model had answered other questions. Draw questions, and take both values of each.",
    )
    _need(
        width < 1.12 * wanted,
        f"Your interval is {width:.3f} wide, too wide for 95 %. Is it the spread of the *means* of whole draws?",
    )
    _need(
        width > 0.9 * wanted,
        f"Your interval is {width:.3f} wide, too narrow for 95 %. Which percentiles did you take, of how large draws?",
    )
    middle = (low + high) / 2
    _need(
        abs(middle - mean) < 0.15 * wanted,
        f"The middle of your interval is {middle:+.3f}, the difference itself {mean:+.3f}. What did you subtract?",
    )
    _done(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")


def statements(table) -> list[tuple[str, bool]]:
    """Return statements about an evaluation, each with whether the table bears it out."""

    def reciprocal(name: str, system: str) -> np.ndarray:
        ranks = table.loc[table.question_set == name, system].astype(float)
        return np.where(ranks <= 10, 1 / ranks, 0.0)

    def gain(name: str) -> tuple[float, bool]:
        difference = reciprocal(name, "fine_tuned") - reciprocal(name, "base")
        error = difference.std(ddof=1) / math.sqrt(len(difference))
        return difference.mean(), difference.mean() > 1.96 * error

    def rank(name: str, system: str):
        return table.loc[table.question_set == name, system].astype(float).fillna(math.inf)

    worse = (rank("gold", "fine_tuned") > rank("gold", "base")).mean()
    return [
        ("On the synthetic questions fine-tuning gained MRR@10, and the gain is more than luck.", gain("synthetic")[1]),
        ("On the gold questions fine-tuning gained MRR@10, and the gain is more than luck.", gain("gold")[1]),
        ("On the gold questions the gain is at least as large as on the synthetic ones.",
         gain("gold")[0] >= gain("synthetic")[0]),
        ("On the synthetic questions keyword search (BM25) has a higher MRR@10 than the fine-tuned model.",
         reciprocal("synthetic", "bm25").mean() > reciprocal("synthetic", "fine_tuned").mean()),
        ("On the gold questions keyword search (BM25) has a higher MRR@10 than the fine-tuned model.",
         reciprocal("gold", "bm25").mean() > reciprocal("gold", "fine_tuned").mean()),
        ("For at least one gold question in ten, fine-tuning moved the right chunk *down*.", worse >= 0.1),
    ]  # fmt: skip


def judged(answers: Sequence[object], table) -> None:
    """Check which statements the learner takes to be true."""
    truths = [truth for _, truth in statements(table)]
    _need(isinstance(answers, Sequence | np.ndarray), "`claims` should be a list.")
    _need(len(answers) == len(truths), f"There are {len(truths)} statements; you judged {len(answers)}.")
    _need(all(answer in (True, False) for answer in answers), "Answer each with True or False.")
    right = sum(bool(a) == b for a, b in zip(answers, truths, strict=True))
    _need(right == len(truths), f"{right} of {len(truths)} are right. Compute the ones you guessed.")
    _done("All right. Would you ship it?")


def questions_needed(value: object, difference: np.ndarray, gain: float) -> None:
    """Check how many questions it takes for the 95 % interval of a gain to exclude zero (to within a tenth)."""
    number, spread = _number(value, "needed"), difference.std(ddof=1)
    wanted = (1.96 * spread / gain) ** 2
    _need(
        not math.isclose(number, 1.96 * spread / gain, rel_tol=0.1),
        "The interval shrinks with the *root* of the number of questions.",
    )
    _need(
        not math.isclose(number, (spread / gain) ** 2, rel_tol=0.1),
        "That is one standard error. How many does a 95 % interval reach?",
    )
    _need(0.9 * wanted <= number <= 1.1 * wanted, f"{number:,.0f} is too {'few' if number < wanted else 'many'}.")
    _done(f"About {number:,.0f} questions to see a gain of {gain:g}; there are {len(difference)} here.")


# 5 · A batch


def plan(runs: Mapping[str, Mapping[str, object]], step: str = "01_build_corpus") -> None:
    """Check a sweep's run names and parameters before anything is run."""
    from nbutils.pipeline.parameters import check_parameters, notebook_parameters
    from nbutils.pipeline.run import Run

    _need(isinstance(runs, Mapping) and len(runs) >= 3, "Plan at least three runs.")
    known, seen = notebook_parameters(step), set()
    for name, parameters in runs.items():
        _need(isinstance(parameters, Mapping), f"{name}: give its parameters as a dict, name -> value.")
        try:
            Run(name)
            checked = check_parameters(parameters)
        except UserError as error:
            raise NotYet(f"{name}: {error}") from None
        stray = [parameter for parameter in checked if parameter not in known]
        _need(not stray, f"{name}: {step} has no parameter {stray[0] if stray else ''}; papermill would only warn.")
        _need("RUN_NAME" not in parameters, f"{name}: the run's name is given by its key.")
        size = checked.get("CHUNK_SIZE", known["CHUNK_SIZE"].default)
        overlap = checked.get("CHUNK_OVERLAP", known["CHUNK_OVERLAP"].default)
        _need(0 < overlap <= size / 4, f"{name}: an overlap of {overlap} in chunks of {size} is out of proportion.")
        seen.add(json.dumps(checked, sort_keys=True))
    _need(len(seen) == len(runs), "Two of the runs are the same.")
    sizes = {parameters.get("CHUNK_SIZE") for parameters in runs.values()}
    _need(len(sizes) >= 3, f"The sweep is over CHUNK_SIZE; yours tries {len(sizes)} value(s).")
    _done(f"{len(runs)} runs to do.")


def executed(planned: Mapping[str, object], broken: str, failed: Mapping[str, str], outputs) -> None:
    """Check that every run of a sweep was done or has its reason, the broken one included."""
    _need(isinstance(failed, Mapping), "`failed` should map a run's name to the reason.")
    _need(
        not (outputs / "tutorial").exists(),
        "A run went to the folder tutorial/, the default. What names a run's folder?",
    )
    for name in planned:
        if name == broken:
            _need(name in failed, f"{name} can't have worked: is its failure recorded?")
            _need(
                "chunk_size" in str(failed[name]).lower(),
                f"The reason for {name} does not say which parameter is wrong.",
            )
            continue
        _need(name not in failed, f"{name} failed: {failed.get(name)}")
        record = outputs / name / "run.json"
        _need(
            record.exists(),
            f"{name} left no run.json in the outputs folder. Was it run after the broken one stopped the loop?",
        )
        steps = json.loads(record.read_text(encoding="utf-8"))["steps"]
        _need(all(step["finished"] for step in steps.values()), f"{name} did not run to its end.")
    kept = len(list(outputs.rglob("*.ipynb")))
    _need(kept >= len(planned), f"{kept} executed notebooks are in the outputs folder; there should be {len(planned)}.")
    _done(f"{len(planned) - len(failed)} runs done, {len(failed)} failed with a reason.")


def collected(table, planned: Mapping[str, Mapping[str, object]], failed: Mapping[str, str]) -> None:
    """Check the table that compares the runs of a sweep."""
    import pandas as pd

    _need(isinstance(table, pd.DataFrame), "`table` should be a DataFrame.")
    wanted = [name for name in planned if name not in failed]
    _need(sorted(map(str, table.index)) == sorted(wanted), f"One row a run that worked, by name: {', '.join(wanted)}.")
    for column in ("train_chunks", "share_unseen"):
        _need(column in table, f"The column {column!r} is missing; run.json holds it for each run.")
    by_size = table.loc[sorted(wanted, key=lambda name: planned[name]["CHUNK_SIZE"])]
    _need(
        by_size["train_chunks"].astype(float).is_monotonic_decreasing,
        "Larger chunks should be fewer. Is each row its own run's?",
    )
    _done("One table for the whole sweep.")


# 6 · Headers


def says_the_year(value: object, chunks: Sequence[str], year: str = "2023") -> None:
    """Check the share of chunks in which a year stands."""
    number, wanted = _number(value, "share"), sum(year in text for text in chunks) / len(chunks)
    _need(0 <= number <= 1, "A share lies between 0 and 1.")
    _need(not math.isclose(number, 1 - wanted, abs_tol=1e-9), f"That is the share of chunks *without* {year}.")
    _need(math.isclose(number, wanted, abs_tol=0.005), f"{number:.3f} is not it. Count them in the texts.")
    _done(f"{year} stands in {wanted:.0%} of the chunks; the model must guess the year of the others.")


def headers(nodes: Sequence) -> None:
    """Check that each chunk has a header, that no two documents share one, and that those of a document differ."""
    files, names = defaultdict(set), defaultdict(set)
    for node in nodes:
        file, header = node.metadata["file_name"], node.metadata.get("header")
        _need(header, f"A chunk of {file} has no header.")
        files[header].add(file)
        names[file].add(header)
    for header, of in files.items():
        _need(len(of) == 1, f"{header!r} stands before chunks of {' and of '.join(sorted(of))}.")
    least = min(names, key=lambda file: len(names[file]))
    _need(len(names[least]) >= 5, f"All chunks of {least} have nearly the same header. What else is known of a chunk?")
    _done(f"{len(files)} different headers for {len(names)} documents.")


def document_shares(hits: Mapping, right: Mapping, rows: Mapping[str, Sequence[dict]], file_of: Mapping) -> None:
    """Check the hit rates and the shares of questions whose first chunk comes from the right document."""
    for name, each in rows.items():
        hit, share = _number(hits[name], f"hits[{name!r}]"), _number(right[name], f"right_document[{name!r}]")
        first = np.mean([file_of[row["retrieved"][0]] == file_of[row["expected"]] for row in each])
        anywhere = np.mean([file_of[row["expected"]] in map(file_of.get, row["retrieved"]) for row in each])
        _need(math.isclose(hit, np.mean([row["is_hit"] for row in each]), abs_tol=1e-6), f"hits[{name!r}] is not it.")
        _need(
            math.isclose(share, first, abs_tol=1e-6) or not math.isclose(share, anywhere, abs_tol=1e-6),
            "You counted documents among all five. Only the first chunk is asked for.",
        )
        _need(math.isclose(share, first, abs_tol=1e-6), f"right_document[{name!r}] is {share:.3f}; that is not it.")
        _done(f"{name} headers: {hit:.0%} hits, the right document first for {first:.0%}.")


# 7 · Verdict


def curve_scores(scores: object, table) -> None:
    """Check the hit rate of each column of a table of hits."""
    _need(isinstance(scores, Sequence) and len(scores) == table.shape[1], f"Give {table.shape[1]} numbers in a list.")
    for name, score in zip(table, scores, strict=True):
        number = _number(score, name)
        _need(math.isclose(number, table[name].mean(), abs_tol=1e-6), f"{name}: {number:.3f} is not it.")
    _done(" → ".join(f"{score:.3f}" for score in scores))


def more_documents(answer: object, low: float, high: float) -> None:
    """Check what follows from the interval of a learning curve's last step."""
    sentences = {"would probably help": low > 0, "would hardly help": high < 0.02}
    sentences["may or may not help"] = not any(sentences.values())
    _need(answer in sentences, f"`answer` is {answer!r}; choose one of {', '.join(sentences)}.")
    _need(sentences[answer], f"The interval reaches from {low:+.3f} to {high:+.3f}. Are you that sure?")
    _done(f"More documents {answer}: {low:+.3f} to {high:+.3f}.")


def outcomes(function: Callable[[float, float, float, float], str]) -> None:
    """Check the outcome of one difference, on cases at and around each border."""
    cases = [
        (0.06, 0.03, 0.09, 0.001, "better"), (0.01, 0.001, 0.019, 0.03, "better"), (-0.05, -0.09, -0.01, 0.01, "worse"),
        (0.001, -0.015, 0.016, 0.8, "same"), (0.01, -0.01, 0.03, 0.3, "unclear"), (-0.01, -0.03, 0.01, 0.3, "unclear"),
        (0.05, 0.001, 0.1, 0.06, "unclear"),
    ]  # fmt: skip
    for difference, low, high, p, wanted in cases:
        got = function(difference, low, high, p)
        case = f"{difference:+.3f} ({low:+.3f} to {high:+.3f}, p {p})"
        _need(got == wanted, f"For {case} your function says {got!r}. Read the table from the top.")
    _done(f"{len(cases)} differences, {len({case[-1] for case in cases})} outcomes.")


def verdicts(function: Callable[[str, str, float], str]) -> None:
    """Check the rules of the verdict on every case that can occur."""
    names, count = ("better", "worse", "same", "unclear"), 0
    for gold, synthetic, difference in itertools.product(names, names, (-0.01, 0.0, 0.01)):
        if difference * {"better": 1, "worse": -1}.get(gold, 0) < 0:
            continue
        disagree = synthetic == "better" and (gold == "same" or difference <= 0)
        wanted = {"worse": "hurt", "better": "better"}.get(gold)
        wanted = wanted or ("disagree" if disagree else "too few" if gold == "unclear" else "same")
        got, count = function(gold, synthetic, difference), count + 1
        _need(
            got == wanted,
            f"Gold {gold!r} ({difference:+.2f}), synthetic {synthetic!r}: your function says {got!r}. Which rule is "
            "the first that applies?",
        )
    _done(f"{count} cases.")
