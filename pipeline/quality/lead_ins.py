"""Phrases before a reply that a model writes and a person does not: announcements, and names of speakers.

Precision comes first: a phrase goes only if it names the reply itself. "Three things I would do:", "My advice:" and
"Short answer:" are people's words and stay, as does the reply of another ("here is her answer:"). English phrases
follow those of Qwen2.5-Coder-1.5B-Instruct, some of which are in the tests; the other languages translate them, and
were not measured. Several replies ("Here are two replies:") are no reply, and left to the rules.
"""

from __future__ import annotations

import re
from itertools import islice

_LONGEST = 300
"""Characters of the longest lead-in."""
_MOST_COLONS = 4
"""Colons that may end it. Both bound the work on any text."""

_LINK = (
    # Escapes are letters of Russian that look like Latin ones.
    "with|about|of|for|on|to|at|that|which|who|is|are|you|we|they"
    "|mit|über|zu|an|dass|con|sur|avec|que|qui|sobre|com|su|met|over|o|na|z|про|\u043e|\u0441"
)
_ANOTHERS = (
    r"(?:his|her|their|seine?|ihre?|sa|sua|zijn|haar|jego|jej|\u0435\u0433\u043e|её|\u0435\u0435)\b"
    r"|(?!(?:person|user|author|member|poster|commenter)'s\b)[\w-]{1,40}'s\b"
)
"""A word that gives the reply to somebody else: "here is my landlord's reply" quotes him."""
_WORD = rf"(?:(?!(?:{_LINK})\b|{_ANOTHERS})[\w'/-]+,?)"
"""A word between "here is" and "reply". After a preposition, the phrase may be about something else."""

_POST = (
    r"(?:to|for|on) (?:the|this|that|your|a) (?:[\w'-]+ ){0,3}"
    r"(?:posts?|questions?|threads?|messages?|comments?|prompts?|titles?|topics?|requests?|scenarios?|situations?|forum)"
)
_ABOUT = (
    rf"(?:{_POST}|(?:from(?! (?:my|our|his|her|their)\b)|in|as|based|using"
    r"|following|written|crafted|tailored|reflecting|incorporating|matching"
    r"|that (?:reflects|captures|matches|shows|fits|follows|meets|incorporates|is)"
    r"|with (?:these|those|the|this|that) (?:\w+ )?(?:traits?|person(?:ality)?|style|tone|voice))\b)"
)
_SAY = r"(?:say|reply|respond|write|post|comment|answer)"
_SOMEONE = (
    r"(?:someone|somebody|a person) (?:like (?:that|this)"
    r"|with (?:these|those|such|this|that) (?:traits?|preferences|personality|character|profile|style))"
)

LEAD_INS = {
    "en": (
        r"sure(?: thing)?|certainly|of course|absolutely|definitely|okay|ok|alright|great|got it|understood|yes"
        r"|no problem|i(?:'d| would) be (?:happy|glad) to(?: help(?: you)?)?(?: with (?:that|this))?",
        rf"(?:here(?:'s| is)|below is|this (?:is|could be|would be)|the following is)"
        rf"(?: {_WORD}){{0,8}}? (?:reply|response|answer|comment|description|portrait|post)"
        rf"(?: {_ABOUT}[^.!?]*)?"
        rf"|(?:here(?:'s| is) )?(?:what|how) (?:i|(?:this|the|that|such a) person)(?:'d| would| might| could) {_SAY}"
        rf"(?: (?:in (?:reply|response)|{_ABOUT}[^.!?]*))?"
        rf"|here(?:'s| is) (?:what|how) (?:i|{_SOMEONE})(?:'d| would| might| could) {_SAY}(?: (?:to this|{_POST}))?"
        r"|(?:sure(?: thing)?|certainly)\W{1,4}here you go"
        r"|(?:how|what) about this|let's give (?:it|this) a (?:try|shot|go)"
        rf"|(?:let me|i'll|i will) (?:give|write|offer|provide|draft)(?: you)?(?: {_WORD}){{0,8}}?"
        rf" (?:reply|response|comment)(?: {_ABOUT}[^.!?]*)?"
        rf"|(?:(?:my|the|a|your|short|brief|possible|suggested|sample|example|forum|draft|proposed|potential|first"
        rf"|final) ){{0,3}}(?:reply|response|comment)"
        rf"(?: (?:(?:would|could|might) be|is)(?: something like(?: this)?)?)?(?: {_ABOUT}[^.!?]*)?"
        r"|user(?:'s)? reply|this person's (?:reply|response|comment)"
        r"|a (?:suitable|fitting) (?:reply|response|comment) (?:would|could|might) be|(?:final )?answer"
        rf"|(?:as an? [^,]*, )?(?:i|this person|the person)(?:'d| would| might) {_SAY}"
        rf" (?:as follows|like this|something like(?: this)?)"
        r"|i(?:'d| would) (?:reply|respond) with(?: something like(?: this)?)?"
        r"|as an? (?:[\w-]+ ){0,2}(?:person|individual) who is [\w ,-]{1,80}"
        rf" and (?:values|likes|dislikes|prefers|enjoys) [\w ,-]{{1,80}}, i(?:'d| would) {_SAY}"
        rf"|(?:this|the) person(?:'d| would| might) {_SAY}"
        rf"|(?:in|from|using|with) the (?:voice|perspective|style|point of view|tone) of [^.!?]*|description|portrait",
    ),
    "de": (
        r"klar|sicher|natürlich|gerne?|selbstverständlich|okay|ok|gut|ja",
        r"(?:hier(?: (?:ist|kommt|wäre)|(?= (?:eine?|meine?) (?:\w+ )?(?:antwort|kommentar)\b))|nachfolgend"
        rf"|im folgenden)(?: {_WORD}){{0,6}}? "
        r"(?:antwort|antwortvorschlag|erwiderung|kommentar|beitrag)(?: (?:auf|aus|von|im|in|als|basierend) [^.!?]*)?"
        r"|(?:(?:meine|die|deine|mögliche) )?(?:antwort|erwiderung|kommentar)(?: auf (?:den|das|diesen) [^.!?]*)?"
        r"|(?:hier ist, was|so) (?:ich|würde ich) (?:(?:antworten|schreiben|sagen)(?: würde)?|darauf antworten)",
    ),
    "fr": (
        r"bien sûr|certainement|d'accord|avec plaisir|absolument|ok|oui",
        rf"(?:voici|voilà|ci-dessous)(?: {_WORD}){{0,6}}? (?:réponse|commentaire)"
        r"(?: (?:à|au|aux|du point de vue|dans|possible|courte|brève|basée) ?[^.!?]*)?"
        r"|(?:(?:ma|la|votre|ta) )?(?:réponse|commentaire)(?: (?:au|à ce|à la) [^.!?]*)?"
        r"|voici (?:ce que je (?:dirais|répondrais)|comment je répondrais)(?: [^.!?]*)?",
    ),
    "es": (
        r"claro(?: que sí)?|por supuesto|desde luego|de acuerdo|con gusto|vale|sí",
        rf"(?:aquí (?:tienes|está|va|te dejo)|a continuación|esta es)(?: {_WORD}){{0,6}}? (?:respuesta|comentario)"
        r"(?: (?:a la|al|desde|en|breve|corta|basada|para (?:el|la|este|esta)) ?[^.!?]*)?"
        r"|(?:(?:mi|la|tu) )?(?:respuesta|comentario)(?: (?:al|a la|a este) [^.!?]*)?"
        r"|esto es lo que (?:diría|respondería)(?: [^.!?]*)?",
    ),
    "it": (
        r"certo|certamente|ovviamente|va bene|volentieri|sì",
        rf"(?:ecco|di seguito|questa è)(?: {_WORD}){{0,6}}? (?:risposta|commento)"
        r"(?: (?:al|alla|dal|nel|breve|possibile|basata) ?[^.!?]*)?"
        r"|(?:(?:la mia|la|tua) )?(?:risposta|commento)(?: (?:al|alla) [^.!?]*)?"
        r"|ecco (?:cosa|come) (?:direi|risponderei)(?: [^.!?]*)?",
    ),
    "pt": (
        r"claro|com certeza|certamente|está bem|ok|sim",
        rf"(?:aqui está|aqui vai|segue|a seguir|esta é)(?: {_WORD}){{0,6}}? (?:resposta|comentário)"
        r"(?: (?:ao|à|do ponto|na|no|curta|breve|baseada|para (?:o|a|este|esta)) ?[^.!?]*)?"
        r"|(?:(?:minha|a minha|a|sua) )?(?:resposta|comentário)(?: (?:ao|à|a este) [^.!?]*)?"
        r"|(?:aqui está|isto é) o que eu (?:diria|responderia)(?: [^.!?]*)?",
    ),
    "nl": (
        r"zeker|natuurlijk|prima|oké|ok|graag|ja",
        rf"(?:hier is|hieronder staat|dit is)(?: {_WORD}){{0,6}}? (?:reactie|antwoord)"
        r"(?: (?:op|van|vanuit|in|als) [^.!?]*)?"
        r"|(?:(?:mijn|de|het|jouw) )?(?:reactie|antwoord)(?: op (?:de|het|dit|deze|je) [^.!?]*)?"
        r"|(?:hier is|dit is) wat ik zou (?:zeggen|antwoorden|schrijven)(?: [^.!?]*)?",
    ),
    "pl": (
        r"jasne|oczywiście|pewnie|dobrze|ok|tak",
        rf"(?:oto|poniżej(?: znajduje się)?)(?: {_WORD}){{0,6}}? (?:odpowiedź|komentarz)(?: (?:na|w|od) [^.!?]*)?"
        r"|(?:(?:moja|twoja) )?(?:odpowiedź|komentarz)(?: na [^.!?]*)?"
        r"|oto co (?:bym )?(?:odpowiedziałbym|odpowiedziałabym|odpowiedział|odpowiedziała|napisał|napisała)",
    ),
    "ru": (
        r"конечно|разумеется|хорошо|ладно|да",
        rf"(?:вот|ниже)(?: {_WORD}){{0,6}}? (?:ответ|комментарий)(?: (?:на|от|в) [^.!?]*)?"
        r"|(?:(?:мой|ваш|твой|короткий|краткий) )?(?:ответ|комментарий)(?: на [^.!?]*)?"
        r"|вот,? (?:что|как) (?:бы )?я (?:бы )?(?:ответил|ответила|сказал|сказала|написал|написала)",
    ),
    "zh": (
        r"好的|当然(?:可以|了)?|没问题|可以",
        r"(?:以下|下面|这)就?是?.{0,24}?(?:回复|回覆|回答|回应|答复|评论)(?:内容|示例|如下)?"
        r"|(?:我的|可能的|简短)?(?:回复|回覆|回答|回应|答复|评论)(?:如下)?|我(?:会|会这样)(?:回复|回答)",
    ),
    "ja": (
        r"もちろん(?:です)?|はい|承知(?:いた)?しました|わかりました|了解(?:です|しました)?",
        r"(?:以下|こちら|次)(?:は|が|の|に|のよう).{0,24}?(?:返信|回答|返答|コメント|答え)(?:の?例|文)?(?:です|します|になります)?"
        r"|(?:私の)?(?:返信|回答|返答|コメント)(?:例|文)?",
    ),
}
"""By language: openers, and phrases that announce the reply. All languages apply to every text."""

_PHRASE = "|".join(rf"(?:(?:{opener})\W{{0,4}}){{0,3}}(?:{phrase})" for opener, phrase in LEAD_INS.values())
_LEAD_IN = re.compile(rf"(?:{_PHRASE})\W{{0,3}}", re.IGNORECASE)
_OPENER = re.compile(
    rf"(?:{'|'.join(opener for opener, _ in LEAD_INS.values())})[!.,] +"
    r"(?=(?:\"[^\"]+\"|\u201c[^\u201c\u201d]+\u201d)\Z)",
    re.IGNORECASE,
)
"""Before a reply in quotation marks an opener by itself is a lead-in; otherwise it may be a person's own."""
_FEWEST_QUOTED = 3
"""Words of the shortest quoted reply: 'OK, "boomer."' is a person's."""
_MAY_ADVISE = re.compile(r"\W*(?:an?|possible|suggested|sample|example|i(?:['\u2019]d| would)) ", re.IGNORECASE)
_QUOTED_PART = re.compile(r"\s*(?:\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d) +\w")
_TAG = re.compile(r"\[(?:reply|response|comment|answer)\]\s*(?=\S)", re.IGNORECASE)
_LISTS_TRAITS = re.compile(r"\b(?:traits|characteristics|qualities|preferences)\W{0,3}\Z", re.IGNORECASE)
_TRAITS = re.compile(
    r"\s*(?:very )?(?:high|low|moderate|medium|average|likes|dislikes|values|enjoys|prefers)\b"
    r"[^.!?:\n\"]{1,150}[:\uff1a]",
    re.IGNORECASE,
)
"""Traits that a lead-in lists after its colon, up to the colon before the reply."""

NAMES = (
    "Adam|Ahmed|Aisha|Alejandro|Alex|Alexander|Ali|Alice|Amanda|Amy|Ana|Andrea|Andrew|Anna|Anne|Anthony|Ashley|Ben"
    "|Benjamin|Brian|Carlos|Carol|Casey|Charlie|Charlotte|Chloe|Chris|Christopher|Claire|Daniel|Dave|David|Diego|Elena"
    "|Elizabeth|Ella|Emily|Emma|Eric|Ethan|Eva|Fatima|Hannah|Hans|Helen|Henry|Isabella|Ivan|Jack|Jacob|Jake|James"
    "|Jamie|Jane|Jason|Javier|Jean|Jennifer|Jessica|Jim|Joe|John|Jonathan|Jordan|Jose|Joseph|Josh|Joshua|Juan|Julia"
    "|Julie|Karen|Kate|Katie|Kevin|Laura|Lauren|Leo|Liam|Lily|Linda|Lisa|Lucas|Lucy|Luis|Luke|Marco|Maria|Marie|Mary"
    "|Matt|Matthew|Megan|Mei|Mia|Michael|Michelle|Mike|Mohammed|Morgan|Nancy|Natalie|Nicole|Nina|Noah|Olga|Oliver"
    "|Olivia|Omar|Patricia|Paul|Pedro|Peter|Pierre|Priya|Rachel|Raj|Rebecca|Richard|Riley|Robert|Ryan|Sam|Samantha"
    "|Sara|Sarah|Sofia|Sophia|Sophie|Steve|Steven|Susan|Taylor|Thomas|Tom|Wei|William|Yuki|Zoe"
)
_ROLES = (
    r"(?i:assistant|human|ai|bot|chatbot|me|persona?|speaker|poster|commenter|author|(?:forum )?(?:user|member)|op"
    r"|(?:you|user|person|reply|response|commenter) ?[#a-d\d]{1,4}|ich|moi|yo|io|eu|ik|ja)"
)
_HANDLE = (
    r"(?:@|u/)[\w-]{2,30}|(?=[A-Za-z\d-]{1,29}_)(?=[\w-]{0,29}[a-z])[A-Za-z][\w-]{2,30}"
    r"|[A-Za-z]{4,26}(?!(?:19|20)\d\d\b)\d{3,4}|(?:[A-Z][a-z]{2,12}){2}\d\d"
)
"""A user's name. A word with few digits is a thing: PS5, Windows11, Route66."""
_COUNTED = r"(?i:edit|update|step|option|part|day|week|month|year|plan|rule|tip|round|version|v|covid|question|q|point)"
_SPEAKER = re.compile(
    rf"(\*{{0,2}})(?!{_COUNTED}[\d_]+\b)(?:{NAMES}|{_ROLES}|{_HANDLE})(?: \([^()\n]{{1,40}}\))?"
    r"(?: ?[:\uff1a]\1|\1 ?[:\uff1a])(?!//)\s*"
)
_SECOND_LABEL = re.compile(
    rf"(?:[.!?,;\u2026\n]|(?<=[.!?,;])[\"\u201d')])[ \n*]{{1,4}}(?i:(?:and |then |also |but )?)"
    rf"(?:{NAMES}|{_ROLES}|{_HANDLE}|[A-Z][\w-]{{0,20}}(?: [\w-]{{1,20}})?)"
    r"(?: \([^()\n]{1,40}\))?\*{0,2} ?[:\uff1a](?!//)"
)
"""A label after the first. Together they are a list or a dialogue, which is a person's: "Me: tired. Also me: up"."""


def strip_lead_in(text: str) -> str:
    """Return a text without the announcement before it: up to a colon, or a line by itself."""
    head = text[: _LONGEST + 1]
    first_line, has_more, _ = head.partition("\n")
    if has_more and _is_lead_in(first_line) and not _advises(first_line, text, len(first_line)):
        return text[len(first_line) :].lstrip()
    for found in islice(re.finditer("[:\uff1a]", head), _MOST_COLONS):
        phrase = head[: found.start()]
        if _is_lead_in(phrase) and not _advises(phrase, text, found.end()):
            return _after(text, _end_of_traits(head, found), head)
    tag = _TAG.match(text)
    if tag:
        return text[tag.end() :]
    opener = _OPENER.match(text) if text[-1:] in ('"', "\u201d") else None
    if opener and text[-2] in ".!?\u2026" and len(text[opener.end() :].split()) >= _FEWEST_QUOTED:
        return text[opener.end() :]
    return text


def strip_speaker(text: str) -> str:
    """Return a text without the name of a speaker before it."""
    found = _SPEAKER.match(text)
    return text[found.end() :] if found and not _SECOND_LABEL.search(text, found.end()) else text


def _advises(phrase: str, text: str, end: int) -> bool:
    """Return whether a phrase quotes a reply for the reader to send, as the text goes on after the quotation."""
    return bool(_MAY_ADVISE.match(phrase) and _QUOTED_PART.match(text, end))


def _end_of_traits(head: str, colon: re.Match[str]) -> int:
    """Return the end of a lead-in: its colon, or the one after the traits that it lists."""
    listed = _TRAITS.match(head, colon.end()) if _LISTS_TRAITS.search(head[: colon.start()]) else None
    return listed.end() if listed else colon.end()


def _is_lead_in(phrase: str) -> bool:
    plain = " ".join(phrase.replace("\u2019", "'").split()).strip("*_# \u00a1\u00bf")
    # A colon inside a quoted title does not end the phrase.
    return plain.count('"') % 2 == 0 and bool(_LEAD_IN.fullmatch(plain))


def _after(text: str, end: int, head: str) -> str:
    """Return the text from `end` on, without the emphasis that was opened before the phrase and closes after it."""
    opened = head[: len(head) - len(head.lstrip("*_"))]
    rest = text[end:]
    return rest.removeprefix(opened[::-1]).lstrip()
