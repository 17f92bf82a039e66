"""Ends of a model's text that are no part of the reply: postscripts about it, sign-offs, half a sentence."""

from __future__ import annotations

import re

from pipeline.quality.lead_ins import NAMES

_REPLY = r"(?:repl(?:y|ies)|response|answer|comment)"
_IMPERSONAL = r"(?![^\n]{0,120}\b(?:i|i['\u2019]\w+|me|my|we|us|you|your)\b)"
"""No word about the writer or reader in the line. Such a line is a person's: "This reply gives me hope"."""
_ABOUT_STYLE = (
    r"(?=[^\n]{0,200}\b(?:posters?|person(?:a|ality)?|traits?|tones?|style|ideas?|humou?r(?:ous)?|empath\w+|bold"
    r"|energetic|friendly|playful|confident)\b)"
)
"""A word in the line that describes a text or its author. "This reply keeps the peace" has none."""

_POSTSCRIPT = re.compile(
    r"\n[^\w\n]{0,6}+(?:"
    rf"(?:this|the above|my) (?:\w+ )?{_REPLY} (?:(?:should|would|will|also) )?(?:reflects?|captures?|demonstrates?"
    r"|showcases?|conveys?|embod(?:y|ies)|incorporates?|maintains?|aligns?|acknowledges?|emphasi[sz]es?|aims|tries"
    r"|balances?|highlights?|adheres?"
    r"|is (?:written|meant|intended|designed|crafted|tailored|in line|in the voice|based)"
    r"|(?:uses?|shows?|expresses) (?:an?|the|their|empathy|understanding|support|enthusiasm))\b"
    r"|this (?:reply|response) (?:includes|provides|offers|contains|addresses|combines|mentions)\b"
    rf"|this (?:reply|response) (?:(?:sounds?|supports?|challenges?|keeps?|gives?)\b{_ABOUT_STYLE}"
    rf"|is an? (?:[\w-]+,? ){{0,4}}(?:{_REPLY}|reflection|example|blend|mix|balance)\b){_IMPERSONAL}"
    rf"|the (?:reply|response) (?:shows?|reflects?|captures?|demonstrates?)\b[^.\n]{{0,80}}\b(?:agreeableness|openness"
    rf"|extraversion|conscientiousness|neuroticism|traits?|persona|personality)\b{_IMPERSONAL}"
    rf"|this is an? (?:[\w-]+,? ){{0,4}}{_REPLY} (?:in the (?:voice|style)\b"
    rf"|from (?:the perspective|someone (?:who|with))\b|that (?:reflects|shows|captures|matches)\b){_IMPERSONAL}"
    r"|in this (?:reply|response),? i(?: have|['\u2019]ve)? (?:tried|aimed|attempted|wanted|made sure)\b"
    rf"|i hope (?:this|that|it)(?: {_REPLY})? (?:meets|fits|matches|captures|reflects|aligns|satisfies)\b"
    r"|let me know if (?:you(?:['\u2019]d| would) like|you (?:need|want)) "
    r"(?:me to |any |an?(?:other)? |further |more |other )*(?:adjust|chang|revis|modif|tweak|edit|version|assistance"
    rf"|rewrit|different|variation|help with (?:anything else|(?:this|the|your) {_REPLY}))"
    rf"|(?:please )?feel free to (?:make (?:any )?(?:changes|edits)(?: to (?:it|(?:this|the) {_REPLY}))?"
    r"|(?:adjust|modify|edit|customi[sz]e|tweak|adapt|personali[sz]e) (?:it|this"
    rf"|(?:this|the) (?:{_REPLY}|text|draft)))(?=\W*(?:\Z|\n)|[.!,]| (?:to (?:fit|suit|match|your)|as|further|if)\b)"
    rf"|(?:please )?note(?: that)?\b[^\n]{{0,200}}\b(?:{_REPLY}|traits?|persona|word limit|prompt|fictional|as an ai)\b"
    r"|(?:word count|character count|traits? (?:shown|reflected|used))\b\W{0,3}:"
    rf"|explanation\b\W{{0,3}}:[^\n]{{0,300}}\b(?:{_REPLY}|traits?|persona(?:lity)?|tone)\b"
    r"|is there anything else i can|would you like me to (?:(?:adjust|chang|revis|modif|rewrit)"
    r"|(?:provid|writ|generat)\w* (?:another|more|an? (?:different|longer|shorter|new))\b)"
    r")",
    re.IGNORECASE,
)
_RULE = re.compile(r"\n[ *_=~-]{3,80}\Z")

_PLACEHOLDER = r"\[[^\[\]\n]{0,30}name[^\[\]\n]{0,10}\]"
_WHO = rf"(?:{_PLACEHOLDER}|(?i:an?|your) (?:[\w-]+ ){{0,2}}[\w-]+|(?:[A-Z][\w'.-]{{0,20}} ?){{1,3}})"
_VALEDICTION = (
    r"(?:(?i:best|best (?:regards|wishes)|(?:kind|warm|warmest)(?: regards)?|regards|sincerely|yours(?: (?:truly|"
    r"sincerely))?|cheers|warmly|take care|(?:with )?love|respectfully|cordially|thanks|thank you"
    r"|viele grüße|liebe grüße|mit freundlichen grüßen|cordialement|bien à vous|saludos|un abrazo|cordiali saluti"
    r"|atenciosamente|abraços|groetjes|met vriendelijke groet|pozdrawiam|\u0441 уважением))"
)
_SIGNATURE = (
    rf"(?:{_PLACEHOLDER}|(?:{NAMES})(?: [A-Z]\.?)?"
    r"|(?i:an?|your) (?:[\w-]+ ){0,2}(?:friend|stranger|neighbou?r|reader|user|member))"
)
"""Who signs after a dash. Other names there are those of authors and places that a person quotes or lists."""
_SIGN_OFFS = (
    re.compile(rf"\n\W{{0,3}}{_VALEDICTION}[,!.]?\s*\n\W{{0,3}}{_WHO}\W{{0,3}}\Z"),
    re.compile(rf"\n\W{{0,3}}{_VALEDICTION},(?: {_WHO}\W{{0,3}})?\Z"),
    re.compile(rf"(?<=[.!?]) {_VALEDICTION},? (?:{_PLACEHOLDER}|{NAMES})\W{{0,2}}\Z"),
    re.compile(rf"(?:\n|(?<=[.!?]) )(?:[\u2014\u2013~]|--?) ?{_SIGNATURE}\Z"),
    re.compile(rf"\n\W{{0,3}}{_PLACEHOLDER}\W{{0,3}}\Z", re.IGNORECASE),
)
_LONGEST_SIGN_OFF = 120

_CLOSING = "\"'\u201d\u2019\u00bb\u203a)\\]*_"
# A run of marks counts as one end. The lookbehind keeps a hostile run of them from being searched again at each mark.
_END = re.compile(
    rf"(?<![.!?\u2026])[.!?\u2026]++[{_CLOSING}]*+(?=\s|\Z)|[\u3002\uff01\uff1f\uff61\u0964\u061f][\u300d\u300f\uff09{_CLOSING}]*+"
)
_BEFORE = re.compile(
    r"(?:^|\n)[ \t]*(?:\d{1,3}|[a-z])\Z|(?:^|[\s(])(?:mr|mrs|ms|dr|prof|st|vs|e\.g|i\.e|approx|z\.b|bzw|ca)\Z", re.I
)
"""Text before a full stop that ends no sentence: the number of a list's item, or an abbreviation."""


def strip_postscript(text: str) -> str:
    """Return a text without a line about the reply and the rest of the last paragraph. The first line always stays."""
    found = _POSTSCRIPT.search(text, _last_paragraph(text))
    return _without_rule(text[: found.start()] if found else text)


def strip_sign_off(text: str) -> str:
    """Return a text without a letter's end: a valediction with a name, a name after a dash, or a placeholder."""
    start = max(0, len(text) - _LONGEST_SIGN_OFF)
    if text[-1:] in ".!?" and text.find("\n", start) < 0:
        # Nearly all texts: a sign-off in the line of a sentence ends in a name.
        return text
    for pattern in _SIGN_OFFS:
        found = pattern.search(text, start)
        if found and found.start() > 0 and not _is_list(text, found):
            return _without_rule(text[: found.start()])
    return text


def cut_at_sentence(text: str, min_share: float) -> str | None:
    """Return a text up to the end of its last whole sentence; None if less than `min_share` of it would be left."""
    for found in reversed(list(_END.finditer(text))):
        if found.end() < min_share * len(text):
            return None
        before = text[max(0, found.start() - 12) : found.start()]
        is_number = found.end() == len(text) and before[-1:].isdigit()
        if not is_number and not _BEFORE.search(before):
            return text[: found.end()]
    return None


def _last_paragraph(text: str) -> int:
    """Return the offset of the line break before the last paragraph that has a word; 0 if it is the only one."""
    start, has_word = len(text), False
    for line in reversed(text.split("\n")):
        if has_word and not line.strip():
            return start
        has_word = has_word or any(map(str.isalnum, line))
        start -= len(line) + 1
    return 0


def _without_rule(text: str) -> str:
    """Return a text without a horizontal rule at its end."""
    text = text.rstrip()
    found = _RULE.search(text, max(0, len(text) - _LONGEST_SIGN_OFF))
    return text[: found.start()].rstrip() if found else text


def _is_list(text: str, found: re.Match[str]) -> bool:
    """Return whether a dash at the end begins the item of a list, not a name."""
    dash, before = found[0].strip()[:1], text[: found.start()]
    return dash in "-\u2013\u2014~" and (f"\n{dash}" in f"\n{before}" or before.rstrip().endswith(":"))
