"""Questions for every chunk of a corpus: asked at once, kept in a store, filtered, and accounted for."""

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from llama_index.core.llms import LLM
from llama_index.core.schema import BaseNode

from nbutils.core import content_hash
from nbutils.questions.account import assemble, spent_on
from nbutils.questions.ask import Asker, GenerationError, Request
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.llms import model_name, resolve_llm
from nbutils.questions.plan import TOKENS_PER_QUESTION, Plan, count_tokens, learns_from_corpus, make_plan, store_path
from nbutils.questions.prompts import DEFAULT_QA_GENERATE_PROMPT_TMPL
from nbutils.questions.settings import QuestionSettings
from nbutils.questions.store import Answer, AnswerStore


def generate_qa_embedding_pairs(
    nodes: Sequence[BaseNode],
    llm: LLM | str,
    qa_generate_prompt_tmpl: str = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    retry_limit: int = 7,
    on_failure: str = "continue",
    save_every: int = 500,
    output_path: str | Path = "qa_finetune_dataset.json",
    verbose: bool = True,
    **options,
) -> EmbeddingQAFinetuneDataset:
    """Write questions about every chunk and return (question, chunk) pairs; stands in for LlamaIndex's function.

    Answers are kept as they come: started again after anything, it asks only for what is missing. A chunk is asked once
    for each prompt, model, setting and number of questions, however often this runs.

    Args:
        nodes: the chunks, as LlamaIndex nodes.
        llm: a LlamaIndex LLM, or a name that `nbutils.questions.llms.resolve_llm` knows.
        qa_generate_prompt_tmpl: the prompt. `{context_str}` is the chunk, `{num_questions_per_chunk}` the number;
            `{question_styles}` and `{language}` may be used too.
        num_questions_per_chunk: questions to ask for.
        retry_limit: tries per chunk before it has failed; waits grow from half a second to thirty. (LlamaIndex tries
            three times without a wait, too few for a server that is busy for a few seconds.)
        on_failure: "continue" leaves a failed chunk without questions, "fail" stops at the first.
        save_every: chunks between two saves of `output_path`. Nothing is lost in between.
        output_path: the dataset. It is written anew, from these nodes alone.
        verbose: show a bar with rate, tokens and time left, and a line that accounts for every chunk.
        **options: `filters`, `budget`, `prices`, `concurrency`, `store`, … as in
            `nbutils.questions.settings.QuestionSettings`.

    Returns:
        The dataset; its corpus holds all chunks, also those without questions. Its `account` is an `Account` of what was
        asked, kept, dropped and spent.

    Raises:
        GenerationError: (a RuntimeError) the LLM refuses, or too many chunks in a row failed. Run again to continue.
        UserError: an argument that cannot be.
    """
    settings = QuestionSettings(
        num_questions_per_chunk=num_questions_per_chunk, retry_limit=retry_limit, on_failure=on_failure,
        save_every=save_every, **options,
    )  # fmt: skip
    output_path = Path(output_path)
    path = store_path(output_path, settings)
    llm = resolve_llm(llm, seed=settings.seed, timeout=settings.timeout, llm_options=settings.llm_options)
    plan = make_plan(nodes, llm, qa_generate_prompt_tmpl, settings)
    with ExitStack() as opened:
        learns = learns_from_corpus(plan.llm)  # is asked anew each time, at no cost
        store = opened.enter_context(AnswerStore(":memory:" if learns else path))
        shared = settings.shared and not learns and opened.enter_context(AnswerStore.shared(settings.shared))
        work = _Work(plan, settings, store, shared or None, output_path)
        problem: BaseException | None = None
        try:
            work.ask(verbose)
        except BaseException as error:
            problem = error
        dataset = work.dataset()
    if problem is None or dataset.queries:
        dataset.save_json(output_path)
    if isinstance(problem, GenerationError):
        done = sum(row["status"] in ("kept", "dropped") for row in dataset.account.chunks)
        raise GenerationError(f"{problem} ({done} of {len(plan.texts)} chunks are done; kept in {path})") from problem
    if problem is not None:
        raise problem
    if verbose:
        print(dataset.account.summary())
        if work.asker.out_of_budget:
            spent = f"{settings.budget.used_calls} calls, {settings.budget.used_tokens:,} tokens"
            print(f"The budget is spent ({spent}). Raise it to go on.")
    if learns and plan.texts and not dataset.queries:
        warnings.warn(
            "The offline generator found no sentence and no keyword in these chunks. It needs a language that puts "
            "spaces between words; name a language model by LLM, or your own questions by PAIRS.",
            stacklevel=2,
        )
    return dataset


class _Work:
    """The answers that there are, and the asking for those that are missing."""

    def __init__(
        self, plan: Plan, settings: QuestionSettings, store: AnswerStore, shared: AnswerStore | None, output_path: Path
    ):
        self.plan, self.settings, self.output_path = plan, settings, output_path
        self.store, self.shared = store, shared
        self.answers = store.read(plan.by_key)
        self.this_run: list[Answer] = []
        settings.budget.spend(*spent_on(self.answers.values()))
        self.asker = Asker(plan.llm, settings, self._keep, count_tokens, learns_from_corpus(plan.llm))
        self._saved = 0

    def ask(self, verbose: bool) -> None:
        """Ask for all that is missing. What another process is asking is waited for."""
        missing = self._in_order(self.plan.missing(self.answers))
        while missing and not self.asker.out_of_budget:
            with (self.shared or self.store).claim(request.key for request in missing) as mine:
                self._look_up([request.key for request in missing])
                wanted = {request.key for request in self.plan.missing(self.answers)}
                here = [request for request in missing if request.key in mine & wanted]
                self.asker.run(here, self._save_now_and_then, verbose)
            missing = [request for request in missing if request.key in wanted - mine]
            time.sleep(0.5 if missing else 0)
        if self.this_run and all(answer.error for answer in self.answers.values()):
            raise GenerationError(f"No chunk was answered: {self.this_run[-1].error}. Run again to continue.")

    def _in_order(self, missing: list[Request]) -> list[Request]:
        """Put what failed before last; under a budget, shuffle."""
        if self.settings.budget.tokens:
            for request in missing:
                request.tokens = count_tokens(request.prompt)
                request.tokens_out = TOKENS_PER_QUESTION * self.settings.num_questions_per_chunk
        if self.settings.budget:
            return sorted(missing, key=lambda request: content_hash(str(self.settings.seed), request.key))
        return sorted(missing, key=lambda request: request.key in self.answers)

    def _look_up(self, keys: list[str]) -> None:
        """Take over what other processes have answered meanwhile; it costs this run nothing."""
        for answer in self.shared.read(keys).values() if self.shared else ():
            if not answer.error:
                self.store.add(replace(answer, calls=0, tokens_in=0, tokens_out=0))
        self.answers |= self.store.read(keys)

    def _keep(self, answer: Answer) -> None:
        answer.model = model_name(self.plan.llm)
        self.this_run.append(answer)
        self.store.add(answer)
        if self.shared and not answer.error:
            self.shared.add(answer)
        self.answers |= self.store.read([answer.key])

    def _save_now_and_then(self) -> None:
        # a round trip reads the whole corpus each time, and what is not filtered is not shown
        due = len(self.this_run) - self._saved >= self.settings.save_every
        if due and not self.settings.applied_filters.round_trip:
            self._saved = len(self.this_run)
            self.dataset().save_json(self.output_path)

    def dataset(self) -> EmbeddingQAFinetuneDataset:
        """Return the pairs that the answers give, filtered, with their account."""
        return assemble(self.plan, dict(self.answers), self.settings, self.this_run)
