"""How to ask and what to keep: the settings of `generate_qa_embedding_pairs`, checked when they are made."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nbutils.core import UserError


class Settings(BaseModel):
    """A frozen object of named settings; a wrong name or value raises a UserError that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **values):
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ").rstrip(".")
            if first["type"] == "extra_forbidden":
                reason = f"no such setting. Known are {', '.join(type(self).model_fields)}"
            raise UserError(f"{name} is {first['input']!r}: {reason}." if name else f"{reason}.") from None


class Filters(Settings):
    """What is asked about and which questions are kept. `Filters(near_duplicates=0, prose=False)` turns single filters
    off, `NO_FILTERS` all.

    Args:
        prose: do not ask about tables of contents.
        min_words, max_words: a question's length in words (in characters halved where a script has no spaces).
        self_contained: drop questions that point to a text the reader cannot see ("the table above").
        near_duplicates: drop a question that shares at least this part of its words with an earlier one
            (Jaccard, 0 to 1); questions that differ in a number are never duplicates. 0 turns it off.
        round_trip: keep a question only if a search for it finds its own chunk within the first so many. 0 turns it off.
        round_trip_model: what searches: "bm25", or the name of an embedding model.
    """

    prose: bool = True
    min_words: int = 2
    max_words: int = 60
    self_contained: bool = True
    near_duplicates: float = Field(0.85, ge=0, le=1)
    round_trip: int = Field(0, ge=0)
    round_trip_model: str = "bm25"

    @model_validator(mode="after")
    def _check(self) -> "Filters":
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is above max_words ({self.max_words}).")
        return self


NO_FILTERS = Filters(prose=False, min_words=0, max_words=10**9, self_contained=False, near_duplicates=0)


class Budget:
    """What may be spent, and what has been, in earlier runs too. Give one object to several calls: they keep it together.

    Args:
        calls: calls of the LLM; 0 is no limit.
        tokens: tokens, sent and received; 0 is no limit.
        within: a budget that all of this one is also spent of.
    """

    def __init__(self, calls: int = 0, tokens: int = 0, within: "Budget | None" = None):
        if calls < 0 or tokens < 0:
            raise UserError(f"budget is {calls} calls and {tokens} tokens; set each to 0 (no limit) or more.")
        self.calls, self.tokens, self.within = calls, tokens, within
        self.used_calls = self.used_tokens = 0

    def __bool__(self) -> bool:
        return bool(self.calls or self.tokens or self.within)

    def share(self, part: float) -> "Budget":
        """Return this part (0 to 1) of the budget, so that one set of chunks leaves something to the next."""
        calls, tokens = (limit and max(1, int(limit * part)) for limit in (self.calls, self.tokens))
        return Budget(calls, tokens, within=self)

    def spend(self, calls: int, tokens: int) -> None:
        """Count what was spent, or set aside; negative numbers give back."""
        self.used_calls += calls
        self.used_tokens += tokens
        if self.within is not None:
            self.within.spend(calls, tokens)

    def allows(self, tokens: int) -> bool:
        """Whether one more call of about `tokens` tokens may be made."""
        if 0 < self.calls <= self.used_calls or 0 < self.tokens < self.used_tokens + tokens:
            return False
        return self.within is None or self.within.allows(tokens)


class Prices(Settings):
    """Prices of a million tokens sent (`input`) and received (`output`), in your currency."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Return what these tokens cost."""
        return round((tokens_in * self.input + tokens_out * self.output) / 1e6, 6)


class QuestionSettings(Settings):
    """Everything about asking but the chunks, the LLM and the prompt.

    Args:
        num_questions_per_chunk, retry_limit, on_failure, save_every: as in `generate_qa_embedding_pairs`.
        concurrency: calls at a time.
        timeout: seconds to wait for one reply; by default the LLM's own time-out.
        llm_options: of the LLM that a name stands for, as in `nbutils.questions.llms.resolve_llm`.
        stop_after: chunks that failed in a row before everything stops.
        language: what `{language}` in the prompt stands for, "German" for example; by default the chunk's own.
        filters: a `Filters`, its fields as a mapping, or None for no filter at all.
        budget: a `Budget`; give the same one to each call. Chunks are then asked in a shuffled order, so that a part of
            them stands for all.
        prices: a `Prices`, or a mapping of "input" and "output".
        store: the file of answers; by default `answers.sqlite` beside the dataset.
        shared: a folder of answers that runs on this machine share: what another has asked, or is asking, is not asked.
        examples: a handful of real questions, whose kinds, lengths and manner those written shall have.
        seed: for the choice of styles, the order under a budget, and the jitter of waits.
    """

    num_questions_per_chunk: int = Field(2, ge=0)
    retry_limit: int = Field(7, ge=1)
    on_failure: Literal["continue", "fail"] = "continue"
    save_every: int = Field(500, ge=1)
    concurrency: int = Field(8, ge=1)
    timeout: float | None = Field(None, gt=0)
    llm_options: dict = Field(default_factory=dict)
    stop_after: int = Field(5, ge=1)
    language: str | None = None
    filters: Filters | None = Filters()
    budget: Budget = Field(default_factory=Budget)
    prices: Prices | None = None
    store: Path | None = None
    shared: Path | None = None
    seed: int = 0
    examples: tuple[str, ...] = ()

    @property
    def applied_filters(self) -> Filters:
        """The filters, none of them where they are None."""
        return NO_FILTERS if self.filters is None else self.filters
