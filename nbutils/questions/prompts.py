"""The prompts that ask for questions: plain text with places to fill, to be read, edited and replaced."""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from nbutils.core import UserError

QUESTION_STYLES = (
    "a few search keywords, not a sentence",
    "a plain question in everyday words",
    "a question about one specific figure, date, name or term, saying whose and of when",
    "a question in other words than the passage's: synonyms, general terms, abbreviations spelt out",
)

EXAMPLES_INTRODUCTION = (
    "of the kinds, the length and the manner of these, which people have really typed (but never one of these again):"
)

DEFAULT_QA_GENERATE_PROMPT_TMPL = """\
This passage comes from a collection of documents that people search.

---------------------
{context_str}
---------------------

Write {num_questions_per_chunk} search queries that people who have never seen the passage would type into a search \
box, and that this passage answers better than any other:
{question_styles}

Each must make sense on its own: name the company, product, person, place or period it is about, and never speak of \
"the passage", "the text" or "the table above". Prefer words that a searcher would think of to those of the passage.
Write in {language}, one query per line, numbered, with nothing before or after.
If nobody would search for what the passage holds (a table of contents, a page of signatures), write only NONE.
"""

EXAM_PROMPT_TMPL = """\
Here is a section of a document.

---------------------
{context_str}
---------------------

You teach this subject. From this section alone, without other knowledge, set {num_questions_per_chunk} questions for \
a written exam. Let them cover different points of the section, and let the section hold the whole answer to each.
Write in {language}, one question per line, numbered, with nothing before or after.
"""

PROMPTS = {"search": DEFAULT_QA_GENERATE_PROMPT_TMPL, "exam": EXAM_PROMPT_TMPL}
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(context_str|num_questions_per_chunk|question_styles|language)\}")


def documented_prompt() -> str:
    """Return the exam prompt that LlamaIndex ships, word for word, from the installed package (which is not run)."""
    spec = importlib.util.find_spec("llama_index.finetuning")
    for root in (spec.submodule_search_locations or []) if spec else []:
        source = Path(root) / "embeddings" / "common.py"
        for node in ast.parse(source.read_text(encoding="utf-8")).body if source.is_file() else []:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DEFAULT_QA_GENERATE_PROMPT_TMPL":
                return ast.literal_eval(node.value)
    raise UserError(
        "The documented prompt comes with llama-index-finetuning 0.4: run `pip install llama-index-finetuning`."
    )


def prompt_by_name(name: str) -> str:
    """Return the template called "search" (the default), "exam" or "documented"; one with `{context_str}` passes through."""
    if name == "documented":
        return documented_prompt()
    if name in PROMPTS:
        return PROMPTS[name]
    if "{context_str}" not in name:
        raise UserError(
            f"PROMPT is {name!r}; use 'search', 'exam', 'documented', or a text of your own with {{context_str}} in it."
        )
    return name


def render_prompt(
    template: str,
    text: str,
    num_questions: int,
    language: str | None = None,
    seed: int = 0,
    examples: Sequence[str] = (),
) -> str:
    """Fill a template. Braces that are no placeholder stay as they are; `{{` and `}}` give single ones.

    Which of `QUESTION_STYLES` a chunk is asked for depends on its text and the seed, so that each gets its share. Real
    questions given as examples (eight are shown, others for other texts) stand in the place of the styles, or at the end.

    Raises:
        UserError: the template lacks `{context_str}`.
    """
    if "{context_str}" not in template:
        raise UserError("qa_generate_prompt_tmpl lacks {context_str}, the place where the chunk goes. Add it.")
    start = int(hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).hexdigest(), 16)
    styles = [QUESTION_STYLES[(start + i) % len(QUESTION_STYLES)] for i in range(num_questions)]
    wanted = [f"{number}. {style}" for number, style in enumerate(styles, 1)]
    if examples:
        shown = [examples[(start + i) % len(examples)] for i in range(min(len(examples), 8))]
        wanted = [EXAMPLES_INTRODUCTION, *(f"- {' '.join(example.split())}" for example in shown)]
        if "{question_styles}" not in template:
            template = f"{template.rstrip()}\n\n{{question_styles}}\n"
    values = {
        "context_str": text,
        "num_questions_per_chunk": str(num_questions),
        "question_styles": "\n".join(wanted),
        "language": language or "the language of the passage",
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]] if match[1] else match[0][0], template)
