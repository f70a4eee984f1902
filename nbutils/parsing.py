"""From an LLM's reply to the questions in it: numbered, bulleted, bold, quoted, JSON, fenced, with chatter around."""

import itertools
import json
import re

_LABEL_WORDS = (
    "q|question|query|search query|search phrase|frage|suchanfrage|pregunta|consulta|pergunta|domanda|vraag|fråga|"
    "spørgsmål|spørsmål|kysymys|pytanie|otázka|kérdés|întrebare|soru|câu hỏi|pertanyaan|soalan|вопрос|питання|въпрос|"
    "ερώτηση|السؤال|سؤال|שאלה|प्रश्न|問題|问题|質問|质问|질문"
)
_STYLE_WORDS = (
    "(?:short |search )?keywords?(?: query| search)?|plain question|specific (?:figure|fact|detail|question)|"
    "paraphrased?(?: question)?|everyday question"
)
_COLON = r"[:：.)）\-–—]"
_LABEL = re.compile(
    rf"(?:(?:{_LABEL_WORDS})\s*(?:#|no\.?|nr\.?)?\s*\d{{0,2}}\s*(?:\([^)]{{1,30}}\)\s*)?(?:[:：]|(?<=\d)\s*{_COLON}(?=\s|$))"
    rf"|(?:{_LABEL_WORDS})\s*#?\s*\d{{1,2}}\s*[*_]*$"
    rf"|(?:{_STYLE_WORDS})\s*(?:[:：]|[-–—](?=\s)))\s*",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?:\(\d{1,2}\)|\[\d{1,2}\]|\d{1,2}[.)](?=\s|$|[*\"“«_])|\d{1,2}\s?[:：\-–—](?=\s)|\d{1,2}[、．）]|[①-⑳]"
    r"|\(?[a-h]\)(?=\s|$)|(?:i|ii|iii|iv|v|vi)[.)](?=\s))\s*"
)
_BULLET = re.compile(r"(?:[-*+•–—‣◦·●▪■□➢➤→]|#{1,6}|>)(?=\s)\s*")
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_ANSWER = re.compile(
    r"(?:answers?|ans|a\d?|antwort|réponse|respuesta|risposta|resposta|antwoord|svar|odpowiedź|ответ|答案|回答|답변|답|答)"
    r"\s*\d{0,2}\s*[:：]",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\W*(?:none|n/?a|no (?:suitable |relevant |good )?questions?|nothing)\W*", re.IGNORECASE)
_CHATTER = re.compile(
    r"""(?:
      (?:sure|certainly|of\ course|absolutely)\b
    | (?:okay|ok|great|thanks?|thank\ you)[,!.]
    | unfortunately\b | apologies\b | (?:i['’]m\ )?sorry\b
    | (?:here|below|following)(?:\s+(?:are|is|you\ go|you\ have)|['’]s|['’]re)\b
    | the\ following\ (?:are|is|\w*\s?(?:questions|queries))\b | as\ (?:requested|an\ ai)\b
    | i\ (?:hope|have|can|could|will|would|cannot|can['’]t|am)\b(?!.*[?？]) | i['’](?:m|ve|ll|d)\b(?!.*[?？])
    | (?:these|those|the\ above|all\ (?:of\ )?(?:these|the))\s+(?:\w+\s+){0,3}(?:questions|queries|searches)\b
    | let\ me\ know\b | let['’]s\b | feel\ free\b | please\ (?:let|note|feel)\b | note\ that\b | note\s*:
    | hope\ (?:this|that|these)\b | (?:shall|should)\ i\b.*\b(?:questions?|queries|more|another)\b
    | (?:would|do)\ you\ (?:like|want|need)\b.*\b(?:questions?|queries|more|further|another|me\ to)\b
    | if\ you\ (?:need|want|would\ like|have)\b.*\b(?:more|further|other|let|questions)\b
    | (?:natürlich|gerne?|sicher|klar)[!,.:] | hier\ (?:sind|ist|kommen)\b | ich\ hoffe\b | diese\ fragen\b
    | die\ folgenden\ fragen\b | (?:bien\ sûr|certainement|d['’]accord)\b | voici\b | j['’]espère\b | ces\ questions\b
    | n['’]hésitez\b | (?:claro|por\ supuesto|desde\ luego)[!,. ] | aqu[íi]\ (?:est[áã]n?|tienes?|van|hay)\b
    | aqui\ (?:estão|vão)\b | espero\ que\b | estas\ preguntas\b | certo[!,.] | certamente\b | ecco\b | spero\ che\b
    | queste\ domande\b | (?:natuurlijk|zeker)[!,. ] | hier\ zijn\b | oto\b | oczywiście\b | tentu\b | berikut\b
    | işte\b | elbette\b | конечно\b | вот\b | надеюсь\b | эти\ вопросы\b
    | 以下(?:は|是|为|為) | 当然 | 好的 | もちろん | はい[、。] | これらの質問 | 希望这 | 这些问题
    | 다음은 | 물론 | 네[,.] | بالتأكيد | إليك | فيما\ يلي | हाँ[,!] | यहाँ | ज़रूर
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_ABOUT_QUESTIONS = re.compile(
    r"^(?:\w+\W+){0,6}?(?:questions|queries|fragen|preguntas|perguntas|domande|вопрос\w*)\b[^?？]*"
    r"(?:context|text|passage|document|chunk|based|generated|above|below|kontext|contexte?o?|testo|exam\w*|quiz)",
    re.IGNORECASE,
)
_TERMINAL = tuple("?？؟;.。!！।՞")
_QUOTES = {
    '"': '"',
    "'": "'",
    "“": "”",
    "„": "“",
    "«": "»",
    "»": "«",
    "「": "」",
    "『": "』",
    "`": "`",
    "‘": "’",
    "‚": "‘",
    "”": "”",
}
_JSON_START = re.compile(r'[\[{](?=\s*["\[{\]}])')
_JSON_VALUES = 100
_FIELDS = ("question", "query", "text", "q", "content", "search", "title")


def parse_questions(reply: str, limit: int) -> list[str]:
    """Return the questions in an LLM's reply, at most `limit`, without numbers, marks, preambles and closing words.

    Understood are one question a line, numbered, bulleted, labelled (`Q1:`), bold, quoted, several lines a question,
    JSON in any usual shape, and fenced blocks. A number that belongs to the question stays ("2023 revenue").
    A reply of NONE, a refusal or mere chatter gives an empty list.
    """
    text = reply.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    text = re.sub(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", "", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"\A.*?</think(?:ing)?>", "", text, flags=re.DOTALL | re.IGNORECASE)
    found = _from_json(text)
    if found is None:
        found = _from_lines(text)
    cleaned = [question for raw in found if (question := _clean(raw))]
    return cleaned[: max(limit, 0)]


def _from_json(text: str) -> list[str] | None:
    """Return the questions of every JSON value in the text, or None where there is none."""
    fenced = re.findall(r"```[\w-]*\n(.*?)(?:```|\Z)", text, flags=re.DOTALL)
    for candidate in [*fenced, text]:
        found, at, whole = [], 0, False
        for _ in range(_JSON_VALUES):
            match = _JSON_START.search(candidate, at)
            if match is None:
                break
            try:
                value, at = json.JSONDecoder().raw_decode(candidate, match.start())
            except (ValueError, RecursionError):
                at = match.end()
                continue
            found += _strings(value)
            whole = whole or not candidate.replace(candidate[match.start() : at], "", 1).strip()
        if found or whole:
            return found
        cut = re.match(r'\s*(?:\{\s*"\w+"\s*:\s*)?\[\s*"', candidate)
        if cut:
            strings = re.findall(r'"(?:[^"\\]|\\.)*"', candidate[cut.end() - 1 :])
            return [json.loads(string, strict=False) for string in strings if _is_json(string)]
    return None


def _is_json(string: str) -> bool:
    try:
        json.loads(string, strict=False)
    except ValueError:
        return False
    return True


def _strings(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [string for item in value for string in _strings(item)]
    if not isinstance(value, dict):
        return []
    lowered = {str(key).casefold(): item for key, item in value.items()}
    for field in _FIELDS:
        if isinstance(lowered.get(field), str):
            return [lowered[field]]
    for field in ("questions", "queries"):
        if field in lowered:
            return _strings(lowered[field])
    numbered = [key for key in lowered if re.fullmatch(r"\D*\d+", key) and not key.startswith("a")]
    items = [lowered[key] for key in numbered] if numbered else list(lowered.values())
    return [string for item in items for string in _strings(item) if isinstance(item, str | list | dict)]


def _from_lines(text: str) -> list[str]:
    lines = [
        line.rstrip() for line in text.split("\n") if not re.fullmatch(r"\s*(?:```[\w-]*|[-=_*]{3,}|~~~\w*)\s*", line)
    ]
    lines = [part for line in lines for part in _split_inline(line)]
    marked = [_strip_markers(line) for line in lines]
    if any(mark for mark, _ in marked):
        return _marked_items(lines, marked)
    return _plain_items(lines)


def _split_inline(line: str) -> list[str]:
    """Break "1. First? 2. Second?" in two."""
    starts = list(re.finditer(r"(?:(?<=^)|(?<=[?？؟.。!:：]\s)|(?<=[?？؟]))(\d{1,2})[.)]\s+", line.strip()))
    if len(starts) < 2 or [int(start[1]) for start in starts] != list(range(1, len(starts) + 1)):
        return [line]
    bounds = [0, *(start.start() for start in starts), len(line.strip())]
    return [part for a, b in itertools.pairwise(bounds) if (part := line.strip()[a:b]).strip()]


def _strip_markers(line: str) -> tuple[str, str]:
    """Return the kind of list marker that opens a line ("" for none) and the line without it."""
    rest, kind = line.strip(), ""
    for pattern, name in ((_BULLET, "bullet"), (_NUMBER, "number"), (_LABEL, "label")):
        opened = re.match(r"(\*\*|__|\*|_)(?=\S)", rest)
        bare = rest[opened.end() :] if opened else rest
        match = pattern.match(bare)
        if not match:
            continue
        kind = name
        rest = bare[match.end() :]
        if opened:
            mark = opened[1]
            if rest.lstrip().startswith(mark):  # **1.** What …
                rest = rest.lstrip()[len(mark) :].strip()
            elif rest.count(mark) % 2:  # **1. What …**
                rest = mark + rest
        rest = rest.strip()
    return kind, rest


def _marked_items(lines: list[str], marked: list[tuple[str, str]]) -> list[str]:
    # where numbers or labels are used, bullets below them are details, not questions
    kinds = {kind for kind, _ in marked if kind}
    first = next(kind for kind, _ in marked if kind)
    if "bullet" in kinds and kinds - {"bullet"} and first != "bullet":
        marked = [("detail" if kind == "bullet" else kind, rest) for kind, rest in marked]
    items: list[str] = []
    open_item, after_blank = False, False
    for index, (line, (kind, rest)) in enumerate(zip(lines, marked, strict=True)):
        plain = line.strip()
        if not plain:
            after_blank = True
            continue
        if kind == "detail" or _ANSWER.match(plain.strip("*_ ")):
            open_item = False
        elif kind:
            heading = plain.startswith("#") and not rest.rstrip("*_").endswith(("?", "？", "؟"))
            if (heading and not _LABEL.match(rest) and rest and kind == "bullet") or _ANSWER.match(rest.strip("*_ ")):
                open_item = False
            else:
                items.append(rest)
                open_item = True
        elif not items and _continues_from_prompt(marked, index, plain):
            items.append(plain)
        elif items and open_item and _belongs(items[-1], line, after_blank):
            items[-1] = f"{items[-1]} {plain}".strip()
        else:
            open_item = open_item and not after_blank
        after_blank = False
    return items


def _continues_from_prompt(marked: list[tuple[str, str]], index: int, plain: str) -> bool:
    """A template that ends with "1." gets a first question without a number, then "2."."""
    following = next((i for i in range(index + 1, len(marked)) if marked[i][1]), None)
    return (
        following is not None
        and marked[following][0] == "number"
        and plain.endswith(("?", "？", "؟"))
        and not _is_chatter(plain)
    )


def _belongs(item: str, line: str, after_blank: bool) -> bool:
    bare = item.rstrip("*_\"”»' ")
    if not bare:
        return not _is_chatter(line.strip())
    if after_blank or _is_chatter(line.strip()):
        return False
    return not bare.endswith(_TERMINAL) or line[:1] in " \t"


def _plain_items(lines: list[str]) -> list[str]:
    items: list[str] = []
    joinable = False
    for line in lines:
        plain = line.strip()
        bare = plain.strip("*_ ")
        if not plain or _is_chatter(bare) or _ANSWER.match(bare):
            joinable = False
        elif (
            joinable
            and bare[:1].islower()
            and items[-1][:1].isupper()
            and not items[-1].endswith(_TERMINAL)
            and "?" in bare
        ):
            items[-1] = f"{items[-1]} {plain}"
        else:
            items.append(plain)
            joinable = True
    return items


def _is_chatter(line: str) -> bool:
    bare = line.strip("*_#> ")
    return (
        bare.endswith((":", "："))
        or bool(_NOTHING.fullmatch(bare))
        or bool(_CHATTER.match(bare))
        or (not bare.endswith(("?", "？", "؟")) and bool(_ABOUT_QUESTIONS.match(bare)))
    )


def _clean(raw: str) -> str:
    text = " ".join(raw.split())
    kind, rest = _strip_markers(text)
    if kind in ("number", "label") and rest:
        text = rest
    previous = None
    while text != previous:
        previous = text
        text = _BOLD.sub(r"\2", text).strip()
        text = re.sub(r"^(\*|_)(?=\S)(.+)(?<=\S)\1$", r"\2", text)
        if text[:1] in _QUOTES and text.rstrip(",;").endswith(_QUOTES[text[0]]) and len(text.rstrip(",;")) > 1:
            inner = text.rstrip(",;")[1:-1]
            if _QUOTES[text[0]] not in inner or text[0] == "'":
                text = inner.strip()
        text = text.strip("*").strip() if text.count("*") % 2 else text
    if _NOTHING.fullmatch(text) or not any(character.isalnum() for character in text):
        return ""
    return text
