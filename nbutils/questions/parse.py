"""From an LLM's reply to the questions in it: numbered, bulleted, labelled, quoted, or in JSON, amid chatter."""

import itertools
import json
import re

from nbutils.questions.prompts import QUESTION_STYLES

_THOUGHTS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
_ASKS = ("?", "？", "؟")
_STOPS = (".", "!", "。", "！", "…", "।")
_FIELDS = ("questions", "queries", "question", "query", "search_query", "text", "q", "search")
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“”", "«": "»", "»": "«", "`": "`", "‘": "’", "「": "」", "[": "]"}
# a question by its name in some languages
_KIND = re.compile(
    r"(?:^|\b|_)(?:questions?|quer(?:y|ies)|q ?\d*|keywords?|paraphrase|fragen?|suchanfragen?|stichwörter|preguntas?"
    r"|perguntas?|domand[ae]|mots-clés|вопрос|प्रश्न)\W*(?:\d{0,2}\W*$|\()|问题|質問",
    re.IGNORECASE,
)
_NOT_A_QUESTION = re.compile(
    r"(?:correct |sample |model )?(?:answers?|ans|a\d?|antwort(?:en)?|réponses?|respuestas?|answer key|solutions?"
    r"|rationale|explanation|justification|reasoning|difficulty)\s*\d{0,2}\s*[:：]",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\W*(?:none|n/?a|null|无|no (?:\w+ )?(?:questions?|queries))\W*", re.IGNORECASE)
# how a line begins that speaks to whoever asked; with "?" at its end it may be a search after all
_CHATTER = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|here (?:are|is|you)|below are|the following|i hope|i can(?:no|['’])t|i kept"
    r"|i am unable|i['’]m sorry|sorry,|as an ai|unfortunately|let me know|feel free|note:|thank you|these (?:\w+ )?(?:questions|queries)"
    r"|(?:both|all|each)(?: of)?(?: the| these)? (?:questions?|queries)|there is nothing|no (?:\w+ )?(?:questions?|queries)\b"
    r"|the (?:passage|text|excerpt|document) (?:is|does|holds|contains|only)"
    r"|es gibt keine)(?![\w-])",
    re.IGNORECASE,
)
_OFFER = re.compile(
    r"(?:would you like|do you (?:want|need)|shall i|should i|could you (?:please )?provide|möchten sie|voulez-vous)\b"
    r".*(?:questions?|queries|fragen|passage|text)\W*$",
    re.IGNORECASE,
)
_LEAD = r"\s*(?:[-*+•>]\s+|#{1,6}\s+)*(?:\*\*|__|\*|_)?"
_TAIL = r"(?:\*\*|__|\*|_)?\s*[:：]?\s*"
_NUMBER = rf"{_LEAD}(?:nr\.?\s|no\.?\s|#)?[(\[]?(?P<n>\d{{1,2}})(?:\ufe0f?\u20e3|\\?[.)\]:：、．]{{1,2}}(?!\d)|\s[-–—](?=\s)){_TAIL}"
_MARKS = [  # what begins the items of a list; `n` counts up, or is empty
    re.compile(_NUMBER, re.IGNORECASE),
    re.compile(
        rf"{_LEAD}[(\[]?[^\W\d_]\w{{0,12}}\s?#?(?P<n>\d{{1,2}})(?:\s\([^)]*\))?(?:\*\*)?\s*(?:[:：.)\]]|[-–—]\s|$){_TAIL}"
    ),
    re.compile(rf"{_LEAD}\(?(?P<n>[a-h])[.)](?=\s|\*|_){_TAIL}", re.IGNORECASE),
    re.compile(r"\s*[^\w\s\"'“„«‘「『(\[{<¿¡$€£#@&%/.…?!;:,`~|\\^=]{1,2}\s+(?:\[[ x]\]\s+)?(?P<n>)"),
]
_LONE = (0, 3)  # the marks that count even where they mark a single line
_LABEL = re.compile(
    rf"{_LEAD}(?P<head>[(\[]?[^\W\d_][^:：.?？!\n]{{0,110}}?[)\]]?)(?:\*\*|__|\*|_)?\s*(?:[:：]|\s[-–—](?=\s)|$)(?:\*\*|__|\*|_)?\s*"
)
_TITLE = re.compile(r"\s*(?:#{1,6}\s|\*\*[^*]+\*\*\s*$)")
_DETAIL = re.compile(r"\s*(?:[-*+•>–]\s+|\(?[a-hA-H][.)]\s)")


def parse_questions(reply: str, limit: int) -> list[str]:
    """Return the questions in an LLM's reply, at most `limit`, without numbers, marks, preambles and closing words.

    A number is a list's only where it counts up, so that one that belongs to the question stays ("2023 revenue").
    A reply of NONE, a refusal or mere chatter gives an empty list.
    """
    text = _without_markup(reply)
    if re.match(r"\W*NONE(?!\w)", text):
        return []
    found = _from_json(text)
    if found is None:
        found = _from_lines(text)
    cleaned = [question for raw in found if (question := _clean(raw))]
    return cleaned[: max(limit, 0)]


def without_thoughts(text: str) -> str:
    """Return a reply without the reasoning that some models write before it."""
    text = re.sub(r"\A.*<\|channel\|>final<\|message\|>", "", text, flags=re.DOTALL)
    text = re.sub(rf"([<\[◁])(?:{_THOUGHTS})([>\]▷]).*?(?:\1/(?:{_THOUGHTS})\2|\Z)", "", text, flags=re.DOTALL | re.I)
    return re.sub(rf"\A.*?[<\[◁]/(?:{_THOUGHTS})[>\]▷]", "", text, flags=re.DOTALL | re.I)


def _without_markup(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u200b", "").lstrip("\ufeff")
    text = without_thoughts(re.sub(r"\n\s*\n", "\n\n", re.sub(r"[^\S\n]{9,}", " " * 8, text)))
    text = re.sub(r"<\|[^|<>]*\|>|</?s>|\[/?INST\]", "", text)
    text = re.sub(r"</?(?:questions?|quer(?:y|ies)|q\d?|li|ol|ul|p|br)\s*/?>", "\n", text, flags=re.I)
    return text if "\n" in text.strip() else text.replace("\\n", "\n")


def _from_json(text: str) -> list[str] | None:
    """Return the questions of the JSON in a text, also where it is cut off, or None where there is none."""
    decoder, found, at = json.JSONDecoder(strict=False), [], 0
    fenced = re.search(r"```\w*\n(.*?)(?:```|\Z)", text, flags=re.DOTALL)
    text = fenced[1] if fenced else text
    starts = re.compile(r"(?:^|[\n:=}])\s*([\[{](?=\s*[\"\[{\]}']))")
    for _ in range(100):
        start = starts.search(text, at)
        if start is None:
            break
        try:
            value, at = decoder.raw_decode(text, start.start(1))
            found.append(value)
        except (ValueError, RecursionError):
            at = start.end()
    if any(_strings(value) for value in found) or (re.fullmatch(r"\s*[\[{].*[\]}]\s*", text, re.DOTALL) and found):
        return _without_numbers([string for value in found for string in _strings(value)])
    if re.match(r"\s*(?:\w+\s*=\s*)?[\[{]\s*[\"'{]", text):  # no JSON, but meant to be
        quote = "'" if re.match(r"\s*(?:\w+\s*=\s*)?\[\s*'", text) else '"'
        found = re.findall(
            rf"{quote}(?!\s*[,:\]}}])((?:[^{quote}\\]|\\.|{quote}(?!\s*[,:\]}}]))+){quote}(?=\s*(?:[,\]}}]|\Z))", text
        )
        return _without_numbers(found)
    return None


def _strings(value) -> list[str]:
    """Return the questions in a JSON value: its strings, or of each record the field that names or asks one."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [string for item in value for string in _strings(item)]
    if not isinstance(value, dict):
        return []
    lowered = {str(key).casefold(): item for key, item in value.items() if isinstance(item, str | list | dict)}
    if named := next((field for field in _FIELDS if field in lowered), None):
        return _strings(lowered[named])
    if numbered := [key for key in lowered if re.fullmatch(r"\D*\d+", key) and not key.startswith("a")]:
        return [string for key in numbered for string in _strings(lowered[key])]
    best = [item for key, item in lowered.items() if _KIND.search(key) or _clean(str(item)).endswith(_ASKS)]
    best = best or [item for item in lowered.values() if not isinstance(item, str) or not _KIND.search(item)]
    return _strings(best[:1])


def _without_numbers(strings: list[str]) -> list[str]:
    """Return strings without the numbers that they all count up with."""
    strings = [" ".join(string.split()) for string in strings]
    for marked in (_marked(strings, 0), _marked(strings, 1)):
        if 1 < len(marked) == len(strings):
            return list(marked.values())
    return strings


def _from_lines(text: str) -> list[str]:
    text = re.sub(r"^\s*(?:```\w*|~~~\w*|[-=_*]{3,})\s*$", "", text, flags=re.MULTILINE)
    head, *rest = re.split(r"^\W*(?:answers|answer key|solutions|antworten|réponses)\W*$", text, flags=re.M | re.I)
    text = head if head.strip() and not any(map(_asks, "\n".join(rest).split("\n"))) else text
    lines = [part.rstrip() for line in text.split("\n") for part in _split_inline(line)]
    found = [marked for kind in range(len(_MARKS)) if (marked := _marked(lines, kind))]
    found += (
        [labels]
        if len(labels := {i: rest for i, line in enumerate(lines) if (rest := _after_label(line)) is not None}) > 1
        else []
    )
    return _items(lines, min(found, key=lambda marked: (min(marked), -len(marked)))) if found else _plain_items(lines)


def _split_inline(line: str) -> list[str]:
    """Break "1. First? 2. Second?" in two."""
    starts = list(
        re.finditer(r"(?:^\s*|(?<=[?？؟.。!:;,|])\s+|(?<=[?？؟]))(?:Q(?=\d{1,2}[:.]))?(\d{1,2})[.):]\s+", line)
    )
    if len(starts) < 2 or [int(start[1]) for start in starts] != list(range(1, len(starts) + 1)):
        return [line]
    bounds = [0, *(start.start() for start in starts), len(line)]
    return [part.rstrip(" ;,|") for a, b in itertools.pairwise(bounds) if (part := line[a:b]).strip()]


def _marked(lines: list[str], kind: int) -> dict[int, str]:
    """Return, by line, what follows the marks of this kind that count up from 0, 1 or an unmarked first question."""
    marked, last = {}, None
    for i, line in enumerate(lines):
        match = _MARKS[kind].match(line)
        if match and kind == 1 and line.isascii() and not _KIND.search(line[: match.end("n")]):
            continue  # "Level 1:", "Note 1:"
        if match:
            mark = match["n"].casefold()
            number = ord(mark) - 96 if mark.isascii() and mark.isalpha() else int(mark or 0)
            first = not marked and (number < 2 or (re.match(r"\s*2[.)]\s", line) and _lines_before(lines, i)))
            if first or (marked and (number in (0, 1) or last < number <= last + 2)):
                marked[i], last = line[match.end() :], number
    if len(marked) == 1 and (kind not in _LONE or (kind == 0 and last != 2 and _lines_before(lines, min(marked)))):
        alone = kind == 1 and _KIND.match(lines[min(marked)].strip("*# [(")) and _asks(lines[min(marked)])
        marked = marked if alone else {}
    return marked


def _lines_before(lines: list[str], index: int) -> list[str]:
    """Return the lines before `index` that may be questions."""
    return [line.strip() for line in lines[:index] if line.strip() and not _is_chatter(line)]


def _after_label(line: str) -> str | None:
    """Return what follows a label ("Keywords:", "**Plain question**"), or None where a line has none."""
    match = _LABEL.match(line)
    if not match or not line.strip():
        return None
    head = match["head"].strip("()[]*_ ").casefold()
    is_label = (
        head in QUESTION_STYLES
        or (len(head.split()) <= 5 and _KIND.search(head))
        or "keywords" in head.split(",")[0][-9:]
    )
    bare = match.end() == len(line) and not re.search(r"[*_#:：)\]]|\d", line)  # words alone may be a search
    return line[match.end() :] if is_label and not bare else None


def _without_label(text: str) -> str:
    rest = _after_label(text)
    return text if rest is None or re.match(r"q\d\b(?!:)", text, re.I) else rest


def _items(lines: list[str], marked: dict[int, str]) -> list[str]:
    """Return the items of a list; a line without a mark may go on with one, or is left out."""
    start = min(marked)
    before = _lines_before(lines, start)[-1:]
    items = before if before and (_asks(before[0]) or re.match(r"\s*2[.)]\s", lines[start])) else []
    taking = title = after_blank = False
    for index, line in enumerate(lines):
        plain = line.strip()
        if index in marked:
            rest = _without_label(marked[index]).strip()
            taking = not _NOT_A_QUESTION.match(rest.strip("*_ "))
            if taking:
                items.append(rest)
                title = bool(_TITLE.match(line)) and not _asks(line)  # of a question that follows it
        elif plain and taking:
            detail = _DETAIL.match(line)
            content = _without_label(line[detail.end() :] if detail else plain)
            ends = _NOT_A_QUESTION.match(plain.strip("*_ ")) or (not detail and (_is_chatter(plain) or plain[0] == "("))
            if not ends and (not items[-1] or title or (detail and _asks(content) and not _asks(items[-1]))):
                items[-1], title = content, False
            elif ends or detail or after_blank or not _goes_on(items[-1], line):
                taking = False
            else:
                items[-1] = f"{items[-1]} {plain}"
        after_blank = not plain
    return items


def _plain_items(lines: list[str]) -> list[str]:
    """Return the lines that are questions or searches, of a reply that marks none."""
    filled = [line for line in lines if line.strip()]
    titles = [line for line in filled if _TITLE.match(line)]
    titles = [line for line in titles if not _asks(line)] if len(titles) < len(filled) else []
    items: list[str] = []
    for line in lines:
        plain = re.sub(r"^#+\s+", "", line.strip())
        heading = filled[1:] and line == filled[0] and re.search(r"\bquestions (?:on|about|for|based)\b[^?]*$", plain)
        left_out = heading or line in titles or _is_chatter(plain) or _NOT_A_QUESTION.match(plain.strip("*_ "))
        if plain and not left_out:
            items.append(_without_label(plain))
    return items


def _asks(text: str) -> bool:
    return text.rstrip("*_\"”»' ").endswith(_ASKS)


def _goes_on(item: str, line: str) -> bool:
    """Whether a line without a mark is the rest of an item."""
    if _asks(item):
        return False
    whole = item.rstrip("*_\"”»' ").endswith((*_STOPS, ";"))
    return line[:1].isspace() or (not whole and (not line[:1].isupper() or _asks(line)))


def _is_chatter(line: str) -> bool:
    bare = line.strip("*_#>()[]¡ ")
    speaks = (_CHATTER.match(bare) and bare.endswith((*_STOPS, ","))) or re.match(
        r"here you (?:go|are)\W*$|as an ai\b", bare, re.I
    )
    exclaims = bare.endswith(("!", "！")) and len(bare.split()) < 4
    return bool(
        bare.endswith((":", "："))
        or bare.startswith("|")
        or speaks
        or exclaims
        or _NOTHING.fullmatch(bare)
        or _OFFER.match(bare)
    )


def _clean(raw: str) -> str:
    """Return a question without emphasis, quotation marks and notes around it; empty where nothing is left."""
    text, previous = re.sub(r"^[-•–](?=[^\W\d])", "", " ".join(raw.split())), None
    while text != previous:
        previous = text
        text = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"\1", text).strip(" |")
        text = re.sub(r"^(\*|_|__)(?=[^\s_*])(.*\s.*)(?<=[^\s_])\1$", r"\2", text)
        if note := re.search(r"\s*[*_]*[(\[]([^()\[\]]{2,80})[)\]][*_.]*$", text):
            inner = note[1].casefold()
            if _KIND.search(inner) or _NOT_A_QUESTION.match(inner) or inner in QUESTION_STYLES:
                text = text[: note.start()]
        if label := re.match(r"[(\[]([^()\[\]]{2,40})[)\]]\s+(?=\S)", text):
            text = text[label.end() :] if _KIND.search(label[1]) else text
        text = _unquoted(text)
        if text.count("*") % 2 or text.count("**") % 2:
            text = text.rstrip("*").strip()
    return "" if _NOTHING.fullmatch(text) or not any(map(str.isalnum, text)) else text


def _unquoted(text: str) -> str:
    """Return a text without the quotation marks around all of it; those of its words stay."""
    bare = text.rstrip(",;" if not text.endswith(".") else ",;.")
    if len(bare) < 3 or bare[-1] not in _QUOTES.get(bare[0], ""):
        return text
    either = f"[{re.escape(bare[0] + bare[-1])}]"
    if re.search(rf"(?<!\w){either}|{either}(?!\w)", bare[1:-1]):  # not an apostrophe
        return text
    return bare[1:-1].strip()
