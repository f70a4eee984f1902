"""From an LLM's reply to the questions in it: numbered, bulleted, labelled, quoted, or in JSON, amid chatter."""

import json
import re

from nbutils.questions.prompts import QUESTION_STYLES

_THOUGHTS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
_ASKS = ("?", "？", "؟")
_QUOTED = re.compile(r"""(["'“„«`‘「\[])((?:(?!\1)[^“”»」\]]|(?<=\w)'(?=\w))+)["'“”»`’」\]][,;]*""")
# a question by its name in some languages
_NAME = (
    r"(?:(?:questions?|quer(?:y|ies)|q|keywords?|paraphrase|fragen?|suchanfragen?|stichwörter|preguntas?|perguntas?"
    r"|domand[ae]|mots-clés|вопрос|प्रश्न)(?![^\W\d_])|问题|質問)"
)
_STYLE = "|".join(map(re.escape, QUESTION_STYLES))
_LABEL = rf"(?:{_STYLE}|(?:[^\W\d_][\w-]*[ ]){{0,4}}{_NAME}(?:[ ]?\#?\d{{1,2}})?(?:[ ]\([^)\n]*\))?)"
_LABELLED = re.compile(
    rf"[*_]*(?:{_LABEL}[*_]*\s*(?:[:：]|\s[-–—](?=\s))|[(\[]{_LABEL}[)\]](?=\s))[*_]*\s*", re.IGNORECASE
)
_HEADING = re.compile(  # a label in bold, or as a heading, on a line of its own
    rf"^(\s*(?:\d{{1,2}}[.)]\s)?)(?:\#+\s+|\*\*)((?:\d{{1,2}}[.)]\s)?{_LABEL})[:：]?(?:\*\*)?[:：]?[ ]*$", re.I | re.M
)
_ANSWER = re.compile(
    r"\W*(?:correct |sample |model )?(?:answers?|ans|a\d?|antwort(?:en)?|réponses?|respuestas?|answer key|solutions?"
    r"|rationale|explanation|justification|reasoning|difficulty)\s*\d{0,2}\s*[:：]",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\W*(?:none|n/?a|null|无|no (?:\w+ )?(?:questions?|queries))\W*", re.IGNORECASE)
_CHATTER = re.compile(  # a sentence that speaks to whoever asked, or offers more
    r"(?:sure|certainly|of course|absolutely|okay|here (?:are|is)|below are|the following|i hope|i can(?:no|['’])t|i kept"
    r"|i am unable|i['’]m sorry|sorry,|as an ai|unfortunately|let me know|feel free|note:|thank you|there is nothing"
    r"|(?:both|all|each|these)(?: of)?(?: the| these)? (?:\w+ )?(?:questions?|queries)|no (?:\w+ )?(?:questions?|queries)"
    r"|the (?:passage|text|excerpt|document) (?:is|does|holds|contains|only)|es gibt keine)(?![\w-]).*[.!。！…।,]"
    r"|(?:would you like|do you (?:want|need)|shall i|should i|could you (?:please )?provide|möchten sie|voulez-vous)\b.*"
    r"(?:questions?|queries|fragen|passage|text)\W*",
    re.IGNORECASE,
)
_LEAD = r"\s*(?:[-*+•>]\s+|#{1,6}\s+)*"
_MARKS = [  # what begins the items of a list; `n` counts up, or is empty
    re.compile(_LEAD + r"[(\[#]?(?P<n>\d{1,2})(?:\ufe0f?\u20e3|\\?[.)\]:：、．]{1,2}(?!\d)|\s[-–—](?=\s))\s*"),
    re.compile(rf"{_LEAD}\[?{_NAME}\s?#?(?P<n>\d{{1,2}})(?:\s\([^)]*\))?\s*(?:[:：.)\]]|[-–—]\s|$)\s*", re.IGNORECASE),
    re.compile(_LEAD + r"\(?(?P<n>[a-h])[.)]\s+", re.IGNORECASE),
    re.compile(r"\s*[^\w\s\"'“„«‘「『(\[{<¿¡$€£#@&%/.…?!;:,`~|\\^=]{1,2}\s+(?:\[[ x]\]\s+)?(?P<n>)"),
]
_DETAIL = re.compile(r"\s*(?:[-*+•>–]\s+|\(?[a-hA-H][.)]\s)")
_JSON = re.compile(r"(?:^|[\n:=}])\s*([\[{](?=\s*[\"\[{\]}']))")
_BROKEN = [
    re.compile(rf"{quote}(?!\s*[,:\]}}])((?:[^{quote}\\]|\\.|{quote}(?!\s*[,:\]}}]))+){quote}(?=\s*(?:[,\]}}]|\Z))")
    for quote in "\"'"
]
_FIELDS = ("questions", "queries", "question", "query", "search_query", "text", "q", "search")


def parse_questions(reply: str, limit: int) -> list[str]:
    """Return the questions in an LLM's reply, at most `limit`, without numbers, marks, preambles and closing words.

    A number is a list's only where it counts up, so that one that belongs to the question stays ("2023 revenue").
    A reply of NONE, a refusal or mere chatter gives an empty list.
    """
    text = _without_markup(reply)
    if re.match(r"\W*NONE(?!\w)", text):
        return []
    found = _from_json(text)
    found = _from_lines(text) if found is None else found
    return list(filter(None, map(_clean, found)))[: max(limit, 0)]


def without_thoughts(text: str) -> str:
    """Return a reply without the reasoning that some models write before it."""
    text = re.sub(r"\A.*<\|channel\|>final<\|message\|>", "", text, flags=re.DOTALL)
    text = re.sub(rf"([<\[◁])(?:{_THOUGHTS})([>\]▷]).*?(?:\1/(?:{_THOUGHTS})\2|\Z)", "", text, flags=re.DOTALL | re.I)
    return re.sub(rf"\A.*?[<\[◁]/(?:{_THOUGHTS})[>\]▷]", "", text, flags=re.DOTALL | re.I)


def _without_markup(text: str) -> str:
    text = re.sub(r"\r\n?", "\n", text).replace("\u200b", "").lstrip("\ufeff")
    text = without_thoughts(re.sub(r"\n\s*\n", "\n\n", re.sub(r"[^\S\n]{9,}", " " * 8, text)))
    text = re.sub(r"<\|[^|<>]*\|>|</?s>|\[/?INST\]", "", text)
    text = re.sub(r"</?(?:questions?|quer(?:y|ies)|q\d?|li|ol|ul|p|br)\s*/?>", "\n", text, flags=re.I)
    fenced = re.search(r"```\w*\n(.*?)(?:```|\Z)", text, flags=re.DOTALL)
    text = (fenced[1] if fenced else text).strip("\n")
    return text if "\n" in text else text.replace("\\n", "\n")


def _from_json(text: str) -> list[str] | None:
    """Return the strings of the JSON in a text, also where it is cut off, or None where there is none."""
    decoder, values, at = json.JSONDecoder(strict=False), [], 0
    while start := _JSON.search(text, at):
        try:
            value, at = decoder.raw_decode(text, start.start(1))
            values.append(value)
        except (ValueError, RecursionError):
            at = start.end()
    if strings := _strings(values):
        numbered = _marked(strings, _MARKS[0])
        return list(numbered.values()) if len(numbered) == len(strings) else strings
    begins = re.match(r"\s*(?:\w+\s*=\s*)?[\[{]\s*(?:\[\s*)?([\"'{\]}])", text)
    return _BROKEN[begins[1] == "'"].findall(text) if begins else None


def _strings(value) -> list[str]:
    """Return the questions in a JSON value: its strings, or of each record the field that names or asks one."""
    if isinstance(value, dict):
        lowered = {str(key).casefold(): item for key, item in value.items()}
        named = [lowered[field] for field in _FIELDS if field in lowered][:1]
        named = named or [item for key, item in lowered.items() if re.fullmatch(rf"(?:{_NAME})?\W*_?\d*", key)]
        value = named or list(lowered.values())[-1:]
    if isinstance(value, list):
        return [string for item in value for string in _strings(item)]
    return [" ".join(value.split())] if isinstance(value, str) else []


def _from_lines(text: str) -> list[str]:
    text = _HEADING.sub(r"\1\2: ", text)
    text = re.sub(r"(?<=[?？؟])\s*(?=(?:Q(?:uestion )?)?\d{1,2}[.):]\s)", "\n", text.replace("**", ""))
    head = re.split(r"^\W*(?:answers|answer key|solutions|antworten|réponses)\W*$", text, flags=re.M | re.I)[0]
    lines = (head if head.strip() else text).split("\n")
    found = [marked for mark in _MARKS if (marked := _marked(lines, mark))]
    if found:
        return _items(lines, min(found, key=lambda marked: (min(marked), -len(marked))))
    plain = [re.sub(r"^#+\s+", "", line.strip()) for line in lines]
    return [_LABELLED.sub("", line, count=1) for line in plain if not _is_chatter(line)]


def _marked(lines: list[str], mark: re.Pattern) -> dict[int, str]:
    """Return, by line, what follows the marks that count up from 0 or 1, or have no number."""
    marked, last = {}, 0
    for i, line in enumerate(lines):
        if match := mark.match(line):
            count = match["n"].casefold()
            number = int(count or 1) if not count or count.isdecimal() else ord(count) - ord("a") + 1
            if number < 2 or (marked and last < number <= last + 2):
                marked[i], last = line[match.end() :], number
    return {} if len(marked) == 1 and mark is _MARKS[2] else marked  # a lone letter may be a word


def _items(lines: list[str], marked: dict[int, str]) -> list[str]:
    """Return the items of a list; a line without a mark may go on with one, or is left out."""
    before = [line for line in lines[: min(marked)] if not _is_chatter(line)][-1:]
    items = [line for line in before if _asks(line)]
    taking = after_blank = False
    for i, line in enumerate(lines):
        plain = line.strip()
        if i in marked:
            rest = _unlabelled(marked[i])
            taking = not _ANSWER.match(rest)
            items += [rest] if taking else []
        elif plain and taking:
            detail = _DETAIL.match(line)
            if not items[-1] and not _is_chatter(plain):
                items[-1] = _unlabelled(line[detail.end() :] if detail else plain)
                continue
            goes_on = not (detail or after_blank or plain[0] == "(" or _asks(items[-1]) or _is_chatter(plain))
            taking = goes_on and (not plain[0].isupper() or _asks(plain))
            items[-1] += f" {plain}" if taking else ""
        after_blank = not plain
    return items


def _unlabelled(text: str) -> str:
    return _LABELLED.sub("", text.strip(), count=1)


def _asks(text: str) -> bool:
    return text.rstrip("*_\"”»' ").endswith(_ASKS)


def _is_chatter(line: str) -> bool:
    """Whether a line is blank, an answer, part of a table, or speaks to whoever asked."""
    bare = line.strip("*_#>()[]¡ ")
    told = _CHATTER.fullmatch(bare) or _NOTHING.fullmatch(bare) or _ANSWER.match(bare)
    return bool(not any(map(str.isalnum, bare)) or told or bare[0] == "|" or bare[-1] in ":：")


def _clean(raw: str) -> str:
    """Return a question without emphasis, quotation marks and notes around it; empty where nothing is left."""
    text = re.sub(r"^[-•–](?=[^\W\d])", "", " ".join(raw.split()))
    for _ in range(2):
        text = re.sub(r"^(\*\*|__|\*|_)(?=[^\s_*])(.*\s.*)(?<=[^\s_])\1$", r"\2", text.strip(" |"))
        note = re.search(r"\s*[*_]*[(\[]([^()\[\]]{2,80})[)\]][*_.]*$", text)
        if note and (re.fullmatch(_LABEL, note[1], re.IGNORECASE) or _ANSWER.match(note[1])):
            text = text[: note.start()]
        text = quoted[2].strip() if (quoted := _QUOTED.fullmatch(text)) else text
    return "" if _NOTHING.fullmatch(text) or not any(map(str.isalnum, text)) else text
