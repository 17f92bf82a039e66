"""Default patterns of `rules.refusals`: a model that refuses or talks about the task, and no person.

People are AI engineers, work as virtual assistants, and cannot help with a wedding. So a pattern asks for what only a
model says next: "As an AI, I", "I'm an AI and cannot", "help with that request". `tests/pipeline/quality/` has both.
"""

from __future__ import annotations

_I_AM = r"i(?:'m| am) (?:just |only |merely )?"
_SORRY = r"i(?:'m| am) (?:very |so |really )?sorry,? but "
_CANNOT = r"i(?: can(?:no|')t|(?:'m| am) (?:not able|unable) to)"
_MODEL = (
    r"(?:artificial intelligence|ai(?: (?:language )?(?:model|assistant|chatbot|system))?|(?:large )?language model)"
)
_MADE = r"(?:created|designed|developed|trained|made|built|without)\b"

REFUSALS = (
    rf"as an? {_MODEL}(?=[,.;:]? (?:i|i'm|my|it|{_MADE})\b)",
    rf"{_I_AM}an? (?:\w+ )?{_MODEL}(?=[.,;!)]|$| (?:(?:and|so|but) (?:i|can|cannot|can't|do|don't|have|not)\b"
    rf"|that|which|{_MADE}))",
    rf"{_I_AM}a virtual assistant(?=[.,;]? (?:and |so |but )?(?:i |who )?(?:ha(?:ve|s) no|can(?:no|')t|do(?:es)?n't))",
    rf"{_SORRY}(?:as an ai\b|(?:i won't|{_CANNOT}) (?:assist|comply|fulfil|generate|provide|engage|discuss|talk about"
    r"|answer that|do that|help (?:you )?with (?:that|this))\b)",
    rf"{_CANNOT} (?:comply\b|fulfill? (?:that|this|your|the)\b)",
    rf"{_CANNOT} (?:help|assist)(?: you)? (?:with|in) (?:that|this|your|such an?)(?: (?:request|matter|task|question"
    r"|topic)\b|\s*[.,!]|$)",
    rf"{_CANNOT} (?:provide|offer|give) (?:you with )?(?:personal (?:opinions|advice|information)|assistance with)\b",
    r"i (?:don't|do not) have (?:personal|human) (?:experience|opinion|feeling|belief|preference|emotion)s?\b",
    r"(?:als (?:ki|künstliche intelligenz|sprachmodell)|en tant qu(?:'ia|e modèle de langage)"
    r"|jako (?:ai|model językowy)|como (?:una? )?(?:ia|modelo de (?:lenguaje|linguagem))"
    r"|come (?:ia|modello linguistico)|als (?:ai-)?taalmodel"
    r"|как (?:ии|языковая модель))\b",
    r"作为(?:一个|一名)?(?:ai|人工智能|语言模型)|(?:ai|言語モデル)として",
    # Talk about the task, where cleaning has left it.
    r"here(?:'s| is| are) (?:the|a|an|my|your|one|some|two|three)(?: [\w-]+,?){0,3} (?:repl(?:y|ies)|responses?)\b"
    r"(?! (?:i|we|he|she|they) )",
    r"i(?:'d| would) be (?:happy|glad) to (?:help|assist)(?: you)? (?:with (?:that|this|your request)|writ|craft|draft"
    r"|creat|generat)",
    r"(?:available|provided) (?:replies|responses)\b",
    r"complete the (?:following sentence|sentence (?:with|by|using|below))\b",
    r"(?:write|wrote|writing|draft) (?:a|the|your|my)(?: [\w-]+){0,2} (?:reply|response) (?:to (?:the|this|that) "
    r"(?:post|question|prompt|title)|that (?:you|reflects|shows|captures|matches)|in the (?:voice|style)"
    r"|from the perspective)\b",
    r"this (?:reply|response) (?:is (?:written|meant|intended|designed|crafted|tailored|in (?:line|the voice)|based on"
    r"|an? (?:[\w-]+,? ){0,3}(?:reply|response|comment) (?:in the (?:voice|style)|from the perspective))"
    r"|reflects|captures|demonstrates|showcases|conveys|embodies|incorporates|emphasi[sz]es|aligns"
    r"|(?:uses|shows|expresses) (?:an?|the (?:person|user|author|trait)|their|empathy|understanding))\b",
    # The first words of a text about the post's author. Portraits begin with "This person".
    r"\Athe (?:person|individual|user|author|poster) (?:(?:describing|in) (?:the|this) (?:situation|post)|is (?:asking"
    r"|planning|looking for|seeking|expressing|considering|describing|wondering)|wants to"
    r"|would (?:like|prefer|likely|probably|enjoy)|(?:express|acknowledg|mention|describ|seem)e?s)\b",
)
"""Each is searched in any case, from the start of a word."""
