"""Texts of models and of people for the default patterns of refusals; none is from a dataset."""

from __future__ import annotations

import pytest

from pipeline.quality.rules import check_text
from schemas.config import RulesConfig

RULES = RulesConfig(min_words=1)

MODELS = """
As an AI language model, I do not have a sister.
As an AI, I have no sister, but I would call her.
As an AI assistant, I can't feel that, but call her.
As an artificial intelligence, I don't eat bread.
As a language model, I cannot taste it.
Well, as a large language model I cannot feel that.
As a large language model trained by Google, I have no opinion.
As an AI developed by Alibaba Cloud, my answer is no.
As an AI model created by OpenAI I stay neutral.
I'm an AI, so I don't take classes or receive grades.
I'm just an AI and cannot tell you what to feel.
I am an AI language model, and I do not own a cat.
I am a language model trained to help.
I'm just a language model, so take it with care.
I'm an AI assistant designed to be helpful.
I am an AI chatbot and do not have a body.
I am only an AI. I can't ride a bike.
I am a virtual assistant and I cannot ride a bike.
I am a virtual assistant who has no family at all.
I'm sorry, but I can't assist with that.
I'm sorry, but I can't assist with that request.
I am sorry, but I cannot assist you with that.
I'm sorry, but I cannot fulfill this request.
I'm sorry but I can't help with that.
I'm sorry, but I can't provide medical advice.
I'm very sorry, but I am unable to provide that.
I'm sorry, but I won't engage with this topic.
I'm sorry, but as an AI I can't do that.
I'm sorry, but I can't talk about that with you.
I can't help with that request.
I cannot help you with this request.
I can't assist with that.
I cannot assist you in this matter, my dear friend.
I am unable to assist with your request.
I'm unable to help with that.
I am not able to help you with this, sadly.
I cannot comply with this request.
I can't fulfill your request at this time.
I'm not able to comply.
I cannot provide personal opinions on this.
I don't have personal experiences, but bread is popular.
I do not have personal preferences or feelings.
I do not have human emotions, but I understand.
Als KI habe ich keine Schwester.
En tant qu'IA, je n'ai pas de soeur.
Como modelo de lenguaje, no tengo hermanas.
Как языковая модель, я не могу.
\u4f5c\u4e3a\u4e00\u4e2a\u4eba\u5de5\u667a\u80fd, \u6211\u6ca1\u6709\u59d0\u59b9
AI\u3068\u3057\u3066, \u79c1
Sure! Here are two possible replies: one and two.
Certainly, here are some possible replies to this post now.
Here is the response you have asked me for.
You should call her. Here is a short, friendly reply to the post.
I would be happy to help you with that, just give me the post.
I'd be glad to assist you with your request.
I'd be happy to help craft a reply.
I wrote a reply that you could send to her.
Write a reply to the post in two sentences.
Call her tonight. This response shows a kind person.
Call her tonight. This reply reflects the traits.
Call her tonight. This response is written in a warm tone.
This reply uses a friendly tone.
Call her tonight. This reply is a short reply in the voice of a young person.
The person is planning to move to a new city.
The person acknowledges their feelings but seems to be trying to balance them.
The person describing the situation points out that they have always had a plan.
The user is asking about bread.
The user wants to know about bread.
The author expresses a wish to travel.
""".strip().splitlines()

PEOPLE = """
As an AI researcher at a lab, I see this every day.
As an AI engineer I would say wait.
As an AI and robotics student, I love this.
As an AI ethics nerd I had to comment.
As a language teacher, I would read more.
As a language modeling person, I disagree.
As a large language school we see that a lot.
As an aide to a senator I learned to wait.
As an artist, I feel this.
I'm an AI engineer and this is my life.
I'm an AI researcher, so I am biased.
I am an AI safety person at heart.
I'm an AI enthusiast who builds robots.
I'm a language nerd, so grammar matters to me.
I'm a virtual assistant for three small firms and work from home.
I am a virtual assistant, and my clients are great.
I'm an air traffic controller, and I would call her.
I'm sorry, but I think you should call her.
I'm sorry, but I can't agree with that.
I'm sorry but I can't stand her either.
I'm sorry, but I can't help laughing at this.
I'm so sorry, but I won't pretend that it gets easy.
I am sorry, but I cannot understand why he left.
I can't help with my sister's wedding, so I sent money.
I can't help you move on Sunday, my back hurts.
I can't assist at the wedding, I have to work.
I can't help but smile at this.
I cannot help feeling that she is right.
I am not able to help my parents as much as I want.
I am unable to travel this year.
I can't comprehend why he would do it.
I can't provide for two families on one wage.
I can't give you a number, but it was cheap.
I cannot believe that she has not called you.
I'd be happy to help you move!
I would be glad to help if you live nearby.
If you need someone to talk to, I'd be happy to help.
I don't have personal space at home.
I do not have feelings for him anymore.
This reply shows up late, sorry.
This reply is late, sorry about that.
This response shows that nobody read your letter.
This response is so good, I saved it.
This reply is why I love this place.
This reply is a short one, as I have to run.
This reply is a response to your question, nothing else.
This comment is gold.
I wrote a response to the landlord and kept a copy.
Write a reply to your boss, but wait a day.
Write the response on paper first.
You should write her a letter and wait for a reply.
Here is the thing: you should call her tonight.
Here is the answer my doctor gave me: rest.
Here's a comment I keep hearing from my dad.
Here's a response I got from HR last year.
Here is my plan for the weekend.
He can't even complete the sentence without laughing.
The person is not the problem, the job is.
The person describing the car to you is a salesman, remember that.
The person you were is gone, and that is fine.
The user manual is your friend here.
The author is wrong about bread, in my view.
I asked the author, and he said no.
I am a model train fan and an AI sceptic.
My AI course was dull, but the people were great.
They treated me as an AI, not a person.
Possible responses: say no, or say nothing.
Wie als Kind im Sommer, so war das.
No puedo ayudar en la boda de mi hermana.
I'm a bit of a language geek, and Dutch is easier.
""".strip().splitlines()


@pytest.mark.parametrize("text", MODELS)
def test_refusals_and_talk_about_the_task_are_rejected(text: str) -> None:
    violation = check_text(text, "stop", RULES)
    assert violation is not None
    assert violation.reason == "refusal_or_meta"


@pytest.mark.parametrize("text", PEOPLE)
def test_what_people_say_is_no_refusal(text: str) -> None:
    assert check_text(text, "stop", RULES) is None
