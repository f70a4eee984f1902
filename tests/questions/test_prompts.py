"""Prompts and their places."""

from question_helpers import make_nodes

from nbutils.questions.prompts import (
    DEFAULT_QA_GENERATE_PROMPT_TMPL,
    QUESTION_STYLES,
    documented_prompt,
    render_prompt,
)


def test_prompts_fill_their_places_and_leave_other_braces_alone():
    template = 'Text: {context_str} Reply as {"questions": [...]}, {{n}} = {num_questions_per_chunk}, {language}.'
    prompt = render_prompt(template, "a {language} in {braces}", 3, "Dutch")
    assert prompt == 'Text: a {language} in {braces} Reply as {"questions": [...]}, {n} = 3, Dutch.'
    assert documented_prompt().format(context_str="x{}", num_questions_per_chunk=2) == render_prompt(
        documented_prompt(), "x{}", 2
    )


def test_all_styles_get_their_share():
    prompts = [render_prompt(DEFAULT_QA_GENERATE_PROMPT_TMPL, node.text, 2) for node in make_nodes(200)]
    assert all(prompt.count("\n1. ") == prompt.count("\n2. ") == 1 for prompt in prompts)
    assert (
        70
        < sum("1. a few search keywords" in prompt or "2. a few search keywords" in prompt for prompt in prompts)
        < 130
    )
    assert render_prompt(DEFAULT_QA_GENERATE_PROMPT_TMPL, "x", 6).count("a few search keywords") in (1, 2)


def test_examples_take_the_place_of_the_styles_and_are_part_of_the_prompt():
    shown = ["who owns uber", "What is {context_str}?"]
    own = "Ask {num_questions_per_chunk} about\n{context_str}"
    for template in (DEFAULT_QA_GENERATE_PROMPT_TMPL, own):
        prompt = render_prompt(template, "A text.", 2, examples=shown)
        assert all(f"- {example}\n" in prompt for example in shown)
        assert QUESTION_STYLES[0] not in prompt and prompt.count("A text.") == 1
    assert "who owns" not in render_prompt(own, "A text.", 2)
