"""From an LLM's reply to the questions in it: numbered, bulleted, bold, quoted, JSON, fenced, with chatter around."""

import ast
import itertools
import json
import re
from dataclasses import dataclass

from nbutils.questions.prompts import QUESTION_STYLES

_BREAK = re.compile(r"[\s\d#*_()\[\].,;:：/'’\-–—]+")
_LABEL_CORE = set(
    _BREAK.split(
        "q question questions query queries search searches searched prompt keyword keywords phrase paraphrase "
        "paraphrased fact figure plain specific words synonyms "
        "frage fragen suchanfrage suchanfragen stichwörter schlüsselwörter pregunta preguntas consulta consultas "
        "clave pergunta perguntas chave domanda domande chiave requête requêtes clés vraag vragen trefwoorden fråga "
        "frågor spørgsmål spørsmål kysymys pytanie pytania otázka kérdés întrebare soru sorular hỏi pertanyaan "
        "soalan вопрос вопросы запрос ключевые питання въпрос ερώτηση السؤال سؤال أسئلة שאלה प्रश्न 問 问 問題 问题 質問 "
        "质问 질문 키워드 关键词 關鍵詞 キーワード 查询 搜索查询 검색어"
    )
)
_LABEL_WORDS = _LABEL_CORE | set(
    _BREAK.split(
        " ".join(QUESTION_STYLES).casefold() + " no nr number one two three four five first second third fourth fifth "
        "short long simple general detailed natural language style based type everyday conversational rephrased exam "
        "quiz user detail synonym semantic einfache kurze mots simple palabras parole palavras slova слова câu"
    )
)
_ANSWER = re.compile(
    r"(?:answers?|ans|a\d?|antwort|réponse|respuesta|risposta|resposta|antwoord|svar|odpowiedź|ответ|答案|回答|답변|답|答"
    r"|rationale|reason(?:ing)?|why|explanation|justification|difficulty|source|note|hint)\s*\d{0,2}\s*[:：]",
    re.IGNORECASE,
)
_NOTE = re.compile(r"[*_]*\(.*\)[*_.]*")
_ANSWERS = re.compile(
    r"^[^\w\n]*(?:answers|answer key|solutions|antworten|réponses|respuestas|risposte|ответы|答案|解答)[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_NOTHING = re.compile(
    r"\W*(?:none|n/?a|null|no|nothing|keine|aucune?|ning[uú]na|nessuna|nenhuma|geen|нет|无|無|なし|없음"
    r"|no (?:suitable |relevant |good |search )?(?:questions?|queries))\W*",
    re.IGNORECASE,
)
_PASSAGE = r"(?:passage|text|excerpt|document|context|section|chunk|content|information)"
# an opening that is chatter whatever follows it
_CHATTER = re.compile(
    rf"""(?:
      (?:.{{0,80}}\b)?(?:here|below|following)\ (?:are|is)\b.*\b(?:questions?|quer(?:y|ies)|searches)\b(?!.*[?？])
    | here\ you\ (?:go|are)\W*$
    | the\ following\ (?:are|\w*\s?(?:questions|queries))\b | as\ an\ ai\b | sorry[,.]\ | i['’]?m\ sorry\b
    | i\ (?:can(?:not|['’]t)|am\ unable\ to)\ (?:help|generate|create|write|assist|do|provide)\b
    | (?:these|those|the\ above|all\ (?:of\ )?(?:these|the)|both|each|either|the\ (?:first|second|third|last)|my)
      \s+(?:of\ )?(?:the\ |these\ )?(?:\w+\s+){{0,2}}(?:questions?|quer(?:y|ies)|searches)\s+
      (?:are|is|can|cover|test|aim|ask|use|target|focus|name|should|may|will|were|have|all|based|require|would)\w*\b
    | (?:(?:would|do)\ you\ (?:like|want|need)|(?:shall|should)\ i)\b.*\b(?:me\ to|questions?|queries|more(?=\W*$))\b
    | is\ there\ anything\ else\b
    | (?:could|can|would)\ you\ (?:please\ )?(?:provide|share|paste)\ the\ {_PASSAGE}\b
    | (?:möchten\ sie|möchtest\ du|soll\ ich)\b.*fragen\b | (?:souhaitez|voulez)-vous\b.*\bquestions\b
    | ¿?(?:quieres|desea|te\ gustaría)\b.*\bpreguntas\b | vuoi\b.*\bdomande\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
# an opening that is chatter where the line is a sentence; without a full stop it may be a search
_CHATTY_SENTENCE = re.compile(
    rf"""(?:
      (?:sure|certainly|of\ course|absolutely|okay|ok|great|alright|understood|got\ it|thanks?|thank\ you|gerne?|sicher
        |klar|natürlich|claro|certo|certamente|zeker)(?=[,!.]|\ thing|\ here)
    | thank\ you\ for | all\ the\ best | good\ luck | unfortunately | apologies | sorry | here(?:['’]s|['’]re)?
    | below\ are | the\ following | as\ requested | let\ me\ know | let['’]s | feel\ free | happy\ to
    | please\ (?:let|note|feel|provide|share) | note | hope | none\ of\ (?:these|this|the)
    | i\ (?:hope|have|can|could|will|would|cannot|can['’]t|am|do|don['’]t) | i['’](?:m|ve|ll|d)
    | (?:i|these|those|both|each|all|the\ above)(?=.*\b(?:questions?|quer(?:y|ies)|searches|passage|you)\b)
    | the\ (?:\w+\ )?(?:questions|queries) | no\ (?:\w+\ )?(?:questions?|queries)
    | if\ you\ (?:need|want|would|have) | it\ (?:seems|appears|looks) | there\ (?:is|are)\ (?:nothing|no)
    | (?:the|this|your)\ (?:provided\ |given\ )?{_PASSAGE}\ (?:is|does|holds|contains|only|appears|seems|has|you)
    | hier\ (?:sind|ist|kommen) | ich\ hoffe | diese\ (?:such)?(?:fragen|anfragen) | wenn\ (?:sie|du)
    | die\ folgenden | es\ gibt\ keine
    | bien\ sûr | certainement | d['’]accord | voici | j['’]espère | ces\ (?:questions|requêtes) | n['’]hésitez
    | av[íi]same | por\ supuesto | desde\ luego | aqu[íi] | espero | estas\ (?:preguntas|consultas)
    | ecco | spero | queste\ domande | natuurlijk | hier\ zijn | oto | oczywiście | självklart | här\ är
    | tentu | berikut | tabii | işte | elbette | конечно | вот | надеюсь | эти\ (?:вопросы|запросы)
    )(?![^\W_]|['’]|-)
    | (?:以下|当然|好的|もちろん|はい|これらの|希望|这些|这两个|다음은|물론|네|도움이|이\ 질문|بالتأكيد|إليك|فيما\ يلي|हाँ|यहाँ|ज़रूर)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADING = re.compile(  # of the whole reply
    r"(?:\w+\W+){0,3}?(?:exam\w*|quiz)\b.*\bquestions\b[^?？]*|.*\bquestions (?:on|about|for|based)\b[^?？]*",
    re.IGNORECASE,
)
_ASKS = ("?", "？", "؟", "՞")
_ASKING = re.compile(
    r"(?:who|whose|what|why|how|when|which|where|wer|wie|warum|wann|wo"
    r"|qui|que|quel\w*|comment|pourquoi|quién|qué|cómo|cuánt\w+|chi|che|come|perché)\b",
    re.IGNORECASE,
)
_TERMINAL = (*_ASKS, ";", ".", "。", "!", "！", "।")
_QUOTES = dict(zip("\"'“„«»「『`‘‚”’[", "\"'”“»«」』`’‘”’]", strict=True)) | {"„": "“”", "‚": "‘’"}
_THOUGHTS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
_TAGS = r"</?(?:questions?|(?:search_)?quer(?:y|ies)|q\d?|li|ol|ul|p|br|output|response|results?|items?|answer)\s*/?>"
_JSON_START = re.compile(r'[\[{](?=\s*["\[{\]}])')
_JSON_VALUES = 100
_CONTAINERS = ("questions", "queries")
_FIELDS = ("question", "query", "question_text", "search_query", "text", "q", "content", "search", "title", "prompt")


def parse_questions(reply: str, limit: int) -> list[str]:
    """Return the questions in an LLM's reply, at most `limit`, without numbers, marks, preambles and closing words.

    Understood are one question a line, numbered, bulleted, labelled (`Q1:`, `Keywords:`), bold, quoted, several lines
    a question, tables, JSON in any usual shape, and fenced blocks. A number is a list's only where it counts up, so
    that one that belongs to the question stays ("2023 revenue", "12. Februar").
    A reply of NONE, a refusal or mere chatter gives an empty list.
    """
    text = _without_markup(reply)
    if re.match(r"\W*NONE(?!\w)", text):
        return []
    found = next((found for read in (_from_json, _from_table, _from_lines) if (found := read(text)) is not None), [])
    cleaned = [question for raw in found if (question := _clean(raw))]
    return cleaned[: max(limit, 0)]


def _without_markup(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u200b", "").lstrip("\ufeff")
    text = re.sub(r"\n\s*\n", "\n\n", re.sub(r"[^\S\n]{9,}", " " * 8, text))
    text = re.sub(r"\A.*<\|channel\|>final<\|message\|>", "", text, flags=re.DOTALL)
    text = re.sub(rf"([<\[])(?:{_THOUGHTS})([>\]]).*?(?:\1/(?:{_THOUGHTS})\2|\Z)", "", text, flags=re.DOTALL | re.I)
    text = re.sub(rf"\A.*?[<\[]/(?:{_THOUGHTS})[>\]]", "", text, flags=re.DOTALL | re.I)
    text = re.sub(r"<\|[^|<>]*\|>|</?s>|\[/?(?:INST|END)\]|\bEND\s*\Z", "", text)
    text = re.sub(_TAGS, "\n", text, flags=re.I)
    text = re.sub(r"\A\s*assistant\s*:", "", text, flags=re.I)
    return text if "\n" in text.strip() else text.replace("\\n", "\n")


# -- JSON and tables ---------------------------------------------------------------------------------------------


def _from_json(text: str) -> list[str] | None:
    """Return the questions of every JSON value (or Python list) in the text, or None where there is none."""
    fenced = re.findall(r"```[\w-]*\n(.*?)(?:```|\Z)", text, flags=re.DOTALL)
    for candidate in [*fenced, text]:
        found, at, whole = [], 0, False
        for _ in range(_JSON_VALUES):
            match = _JSON_START.search(candidate, at)
            if match is None:
                break
            try:
                if not re.search(r"(?:^|[\n:=,>\[{}\]])\s*\Z", candidate[: match.start()]):
                    raise ValueError  # within a question
                value, at = json.JSONDecoder(strict=False).raw_decode(candidate, match.start())
            except (ValueError, RecursionError):
                at = match.end()
                continue
            found += _strings(value)
            whole = whole or not candidate.replace(candidate[match.start() : at], "", 1).strip()
        if found or whole:
            return _without_numbers(found)
        if re.match(r'\s*(?:[{\[]\s*|"?\w+"?\s*[:=]\s*)*"[^\n]*"\s*[,\]}]', candidate):  # cut off, or torn
            return _without_numbers(
                re.findall(r'"(?!\s*[,:\]}])((?:[^"\\]|\\.|"(?!\s*[,:\]}]))+)"(?=\s*(?:[,\]}]|\Z))', candidate)
            )
        if re.match(r"\s*\[\s*['\"].*\]\s*\Z", candidate, re.DOTALL):
            try:
                return _without_numbers(_strings(ast.literal_eval(candidate.strip())))
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return None


def _strings(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [string for item in value for string in (_one_of(item) if isinstance(item, dict) else _strings(item))]
    if not isinstance(value, dict):
        return []
    lowered = {str(key).casefold(): item for key, item in value.items()}
    for field in _CONTAINERS:
        if field in lowered:
            return _strings(lowered[field])
    if any(isinstance(lowered.get(field), str) for field in _FIELDS):
        return _one_of(value)
    numbered = [key for key in lowered if re.fullmatch(r"\D*\d+", key) and not key.startswith("a")]
    nested = [key for key, item in lowered.items() if isinstance(item, list | dict)]
    return [string for key in numbered or nested or lowered for string in _strings(lowered[key])]


def _one_of(record: dict) -> list[str]:
    """Return the question in a record of several fields."""
    lowered = {str(key).casefold(): item for key, item in record.items()}
    if any(field in lowered for field in _CONTAINERS):
        return _strings(record)
    texts = {key: item for key, item in lowered.items() if isinstance(item, str)}
    named = [key for key in texts if _is_label(key)]
    asking = [key for key, item in texts.items() if item.endswith(_ASKS)]
    telling = [key for key, item in texts.items() if not _is_label(item)]
    best = [*(field for field in _FIELDS if field in texts), *named, *asking, *telling]
    return [texts[best[0]]] if best else [string for item in lowered.values() for string in _strings(item)]


def _from_table(text: str) -> list[str] | None:
    """Return the column of a Markdown table that holds the questions, or None where there is no table."""
    if not re.search(r"^\s*\|?\s*:?-{2,}:?\s*\|[\s:|-]*$", text, re.MULTILINE):
        return None
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in text.split("\n") if "|" in line]
    rows = [[cell.strip() for cell in row] for row in rows if not re.fullmatch(r"[\s:-]*", "".join(row))]
    rows = [row for row in rows if len(row) == len(rows[0])]
    if len(rows) < 2:
        return None
    head, *body = rows
    labelled = [column for column, name in enumerate(head) if _is_label(name)] or range(len(head))
    column = max(labelled, key=lambda column: sum(len(row[column]) for row in body))
    return [row[column] for row in body]


# -- lists -------------------------------------------------------------------------------------------------------


@dataclass
class _Mark:
    """How a list marks its items: a pattern for the head of a line, whose group `n` counts up, or is None."""

    pattern: re.Pattern
    alone: re.Pattern | None = None  # what a mark looks like that counts even as the only one
    all_lines: bool = False  # whether it counts only where every line has it


_LEAD = r"\s*(?:[-*+•>]\s+|#{1,6}\s+)*(?:\*\*|__|\*|_)?"
_TAIL = r"(?:\*\*|__|\*|_)?\s*[:：]?\s*"
_CJK = "一二三四五六七八九十"
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")
_MARKS = [
    _Mark(
        re.compile(
            rf"{_LEAD}(?:(?:no|nr)\.?\s|number\s|#)?\s?[(\[<]?(?P<n>\d{{1,2}})"
            rf"(?:\ufe0f?\u20e3|\s?\\?[.)\]>:：、．）/]{{1,2}}(?!\d)|\s?[-–—](?=\s)){_TAIL}",
            re.I,
        ),
        re.compile(
            rf"{_LEAD}[(\[]?\d{{1,2}}(?:[.)\]:]{{1,2}}|\s[-–—])(?:\s|\*|_|$|[\"“«])|{_LEAD}\d{{1,2}}[、．）：\ufe0f\u20e3]"
        ),
    ),
    _Mark(re.compile(rf"{_LEAD}(?P<n>[①-⑳])\s*"), re.compile("")),
    _Mark(re.compile(rf"{_LEAD}\(?(?P<n>[a-z])[.)](?=\s|\*|_){_TAIL}", re.I)),
    _Mark(re.compile(rf"{_LEAD}\(?(?P<n>[ivx]+)[.)](?=\s|\*|_){_TAIL}", re.I)),
    _Mark(re.compile(rf"\s*(?P<n>[{_CJK}])[、.．]\s*")),
    _Mark(re.compile(r"\s*#?(?P<n>\d{1,2})\s+(?=[A-ZÀ-Þ¿\"“«])"), all_lines=True),
    _Mark(
        re.compile(r"\s*[^\w\s\"'“„«»‹‘‚「『(\[{<¿¡$€£#@&%/.…?!;:,`~|\\^=]{1,2}\s+(?:\[[ x]\]\s+)?(?P<n>)"),
        re.compile(""),
    ),
    _Mark(re.compile(r"\s*[-•*](?![-•*\s])(?P<n>)"), all_lines=True),
]


def _ordinal(token: str) -> int | None:
    if not token:
        return None
    if token.isdecimal():
        return int(token)
    if token.casefold() in _ROMAN:
        return _ROMAN.index(token.casefold()) + 1
    return _CJK.find(token) + 1 or (ord(token) - 0x2460 + 1 if ord(token) >= 0x2460 else ord(token.casefold()) - 96)


_LABELLED = re.compile(
    rf"{_LEAD}(?P<head>[(\[]?[^\W\d_][^:：.?？!\n]{{0,110}}?)(?:\*\*|__|\*|_)?\s*"
    r"(?:[:：](?!//)|(?<=[\d)])\s*[.)\-–—](?=[\s*_])|(?<=[\])])(?=\s)|\s[-–—](?=\s)|\Z)(?:\*\*|__|\*|_)?\s*"
)
_SECOND = re.compile(r"\s*2[.)]\s")  # a prompt that ends with "1." gets "First?", then "2. Second?"
_TITLE = re.compile(r"\s*(?:#{1,6}\s|\*\*[^*]+\*\*\s*$)")
_DETAIL = re.compile(r"\s*(?:[-*+•◦‣>–]\s+|\(?[a-hA-H][.)]\s)")


def _is_label(text: str) -> bool:
    """Whether a text only says what comes: "Question 1", "A few search keywords", "Stichwörter"."""
    words = [word for word in _BREAK.split(text.casefold()) if word]
    return bool(words) and not _LABEL_CORE.isdisjoint(words) and _LABEL_WORDS.issuperset(words)


def _label(line: str) -> tuple[str, str] | None:
    match = _LABELLED.match(line)
    return (match["head"], line[match.end() :]) if match and _is_label(match["head"]) else None


def _unlabelled(text: str) -> str:
    """Return a text without the labels before it; "Q1" may be a quarter and stays."""
    while (found := _label(text)) and not re.fullmatch(r"[(\[]?q\d", found[0].strip(), re.I):
        text = found[1]
    return text


def _from_lines(text: str) -> list[str]:
    text = re.sub(r"^\s*(?:```[\w-]*|~~~\w*|[-=_*]{3,})\s*$", "", text, flags=re.MULTILINE)
    if (answers := _ANSWERS.search(text)) and text[: answers.start()].strip():
        text = text[: answers.start()]
    lines = [part.rstrip() for line in text.split("\n") for part in _split_inline(line)]
    marked = _marked(lines)
    return _plain_items(lines) if marked is None else _marked_items(lines, marked)


def _split_inline(line: str) -> list[str]:
    """Break "1. First? 2. Second?" in two."""
    starts = list(
        re.finditer(r"(?:^\s*|(?<=[?？؟.。!:：;,|])\s+|(?<=[?？؟]))\(?(?:Q(?=\d{1,2}[:.]))?(\d{1,2})[.):]\s+", line)
    )
    if len(starts) < 2 or [int(start[1]) for start in starts] != list(range(1, len(starts) + 1)):
        return [line]
    bounds = [0, *(start.start() for start in starts), len(line)]
    return [part.rstrip(" ;,|") for a, b in itertools.pairwise(bounds) if (part := line[a:b]).strip()]


def _marked(lines: list[str]) -> dict[int, str] | None:
    """Return what follows the mark of each line that the reply's list marks, or None where there is no list."""
    found = [_labels(lines), *(_counting(lines, mark) for mark in _MARKS)]
    found = [marked for marked in found if marked]
    return min(found, key=lambda marked: (min(marked), -len(marked))) if found else None


def _labels(lines: list[str]) -> dict[int, str]:
    found = {i: label for i, line in enumerate(lines) if (label := _label(line)) and line.strip()}
    if len(found) == 1:
        ((head, rest),) = found.values()
        found = found if re.search(r"\d", head) and _asks(rest) else {}
    return {i: rest for i, (_, rest) in found.items()}


def _counting(lines: list[str], mark: _Mark) -> dict[int, str]:
    """Return the lines whose marks count up from one (or go on from an unmarked first question)."""
    matches = {i: match for i, line in enumerate(lines) if (match := mark.pattern.match(line)) and line.strip()}
    numbers = {i: _ordinal(match["n"]) for i, match in matches.items()}
    starts = (
        i
        for i, after in itertools.zip_longest(numbers, list(numbers)[1:])
        if numbers[i] in (None, 1)
        or (matches[i]["n"].isdecimal() and numbers.get(after) == numbers[i] + 1)
        or (_SECOND.match(lines[i]) and _before(lines, i))
    )
    start = next(starts, None)
    marked, last = {}, None
    for i, number in numbers.items():
        if i == start or (marked and (number in (None, 1) or last < number <= last + 2)):
            marked[i], last = lines[i][matches[i].end() :], number
    if len(marked) == 1 and not _SECOND.match(lines[start]):
        listed = mark.alone is not None and mark.alone.match(lines[start])
        if not listed or (numbers[start] and _before(lines, start).endswith(_ASKS)):
            return {}
    if mark.all_lines and len(marked) < sum(bool(line.strip()) and not _is_chatter(line) for line in lines):
        return {}
    return marked


def _before(lines: list[str], index: int) -> str:
    """Return the last line before `index` that may be a question, or an empty string."""
    return next((line.strip() for line in reversed(lines[:index]) if line.strip() and not _is_chatter(line)), "")


def _marked_items(lines: list[str], marked: dict[int, str]) -> list[str]:
    items: list[str] = []
    start = min(marked)
    first = _before(lines, start)
    if _SECOND.match(lines[start]) or (first.endswith(_ASKS) and not re.match(r"\D*[01](?!\d)", lines[start])):
        items.append(_unlabelled(first))
    taking, title, after_blank = False, False, False
    for index, line in enumerate(lines):
        plain = line.strip()
        if index in marked:
            rest = _unlabelled(marked[index]).strip()
            taking = not _ANSWER.match(rest.strip("*_ "))
            if taking:
                items.append("" if _is_label(rest) and not rest.endswith(_ASKS) else rest)
                title = bool(_TITLE.match(line)) and not _asks(line)  # of a question that follows it
        elif not plain:
            after_blank = True
            continue
        elif taking:
            detail = _DETAIL.match(line)
            content = _unlabelled(line[detail.end() :] if detail else plain)
            if _ANSWER.match(plain.strip("*_ ")) or (not detail and (_is_chatter(plain) or _NOTE.fullmatch(plain))):
                taking = False
            elif not items[-1] or title or (detail and content.endswith(_ASKS) and not items[-1].endswith(_ASKS)):
                items[-1], title = content, False
            elif detail or after_blank or not _goes_on(items[-1], line):
                taking = False
            else:
                items[-1] = f"{items[-1]} {plain}"
        after_blank = False
    return items


def _asks(text: str) -> bool:
    return text.rstrip("*_\"”»' ").endswith(_ASKS)


def _goes_on(item: str, line: str) -> bool:
    """Whether a line without a mark is the rest of an item."""
    if _asks(item):
        return False
    if item.rstrip("*_\"”»' ").endswith(_TERMINAL):
        return line[:1].isspace()
    return line[:1].isspace() or not line[:1].isupper() or _asks(line)


def _plain_items(lines: list[str]) -> list[str]:
    items: list[str] = []
    joinable = False
    filled = [line for line in lines if line.strip()]
    titles = [line for line in filled if _TITLE.match(line)]
    titles = [line for line in titles if not _asks(line)] if len(titles) < len(filled) else []
    for line in lines:
        plain = re.sub(r"^#+\s+", "", line.strip())
        bare = plain.strip("*_ ")
        first = len(filled) > 1 and line == filled[0] and _HEADING.fullmatch(bare)
        if not plain or first or line in titles or _is_chatter(bare) or _ANSWER.match(bare):
            joinable = False
        elif joinable and "?" in bare and items[-1][:1].isupper() and _ends_a_sentence(items[-1], bare):
            items[-1] = f"{items[-1]} {plain}"
        else:
            items.append(_unlabelled(plain))
            joinable = True
    return items


def _ends_a_sentence(before: str, line: str) -> bool:
    return not before.endswith(_TERMINAL) and line[:1].islower() and not _ASKING.match(line)


def _is_chatter(line: str) -> bool:
    bare = line.strip("*_#>()[]¡ ")
    return (
        bare.endswith((":", "："))
        or bool(_NOTHING.fullmatch(bare))
        or bool(_CHATTER.match(bare))
        or (bare.endswith((".", "!", "。", "！", "…", ",", "।")) and bool(_CHATTY_SENTENCE.match(bare)))
        or (_is_label(bare) and not bare.endswith(_ASKS))
    )


# -- a single question -------------------------------------------------------------------------------------------


def _without_numbers(strings: list[str]) -> list[str]:
    """Return JSON strings without the numbers that they count up with."""
    strings = [" ".join(string.split()) for string in strings]
    for marked in (_counting(strings, _MARKS[0]), _labels(strings)):
        if 1 < len(marked) == len(strings):
            return list(marked.values())
    return strings


def _clean(raw: str) -> str:
    text = " ".join(raw.split())
    previous = None
    while text != previous:
        previous = text
        text = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"\1", text).strip(" |")
        text = re.sub(r"^(\*|_|__)(?=[^\s_*])(.*\s.*)(?<=[^\s_])\1$", r"\2", text)
        if note := re.search(r"\s*[*_]*[(\[]([^()\[\]]{2,80})[)\]][*_.]*$", text):
            text = text[: note.start()] if _is_label(note[1]) or _ANSWER.match(note[1]) else text
        text = _unquoted(text)
        if text.count("*") % 2 or text.count("**") % 2:
            text = text.rstrip("*").strip()
    if _NOTHING.fullmatch(text) or not any(character.isalnum() for character in text):
        return ""
    return text


def _unquoted(text: str) -> str:
    bare = text.rstrip(",;" if not text.endswith(".") else ",;.")
    if len(bare) < 3 or bare[0] not in _QUOTES or bare[-1] not in _QUOTES[bare[0]]:
        return text
    inner = bare[1:-1]
    quote = re.escape(bare[-1])
    closed = re.search(rf"{quote}(?!\w)", inner)  # "Lyft" vs "Uber" is not quoted as a whole, "Why "Prime Time"?" is
    opened = re.search(rf"(?<!\w){re.escape(bare[0])}(?=\w)", inner)
    return text if closed and not (opened and opened.start() < closed.start()) else inner.strip()
