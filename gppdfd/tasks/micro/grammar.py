"""Meanings and the sentences that say them.

A meaning (`Clause`, made of `Phrase`s) holds words by what they mean; saying it picks one synonym for each
and, where the language has several constructions (active or passive), one of them. So two sayings of one
meaning are paraphrases, and labels are computed from meanings, never from the words of a sentence. Texts have
no punctuation: tokens cost time.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from gppdfd.tasks.micro import lexicon
from gppdfd.tasks.micro.lexicon import Word, add_ed, add_s

T = TypeVar("T")
# How often the common word is taken without a look at its synonyms.
COMMON = 0.5


class Chooser:
    """Random choices, the same in every Python version because all are made from `random.Random.random`."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def other(self, items: Sequence[T], *unwanted: T) -> T:
        """One of `items` that is none of `unwanted`."""
        while (item := self.pick(items)) in unwanted:
            pass
        return item

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return [items[place] for _, place in sorted((self._random(), place) for place in range(len(items)))]

    def lemma(self, word: Word) -> str:
        """One of the synonyms; the first one is the common word, the others are rarer."""
        return word.lemmas[0] if self.chance(COMMON) else self.pick(word.lemmas)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: `the old doctor`."""

    noun: Word
    determiner: str = "the"
    adjective: Word | None = None


@dataclass(frozen=True)
class Clause:
    """Who did what to whom, and where or when; past tense."""

    subject: Phrase
    verb: Word
    object: Phrase
    place: tuple[str, Word] | None = None
    time: str | None = None
    negated: bool = False

    def with_role(self, role: str, phrase: Phrase) -> "Clause":
        """With another `subject` or `object`."""
        return replace(self, subject=phrase) if role == "subject" else replace(self, object=phrase)

    def swapped(self) -> "Clause":
        return replace(self, subject=self.object, object=self.subject)


def say_phrase(phrase: Phrase, choose: Chooser) -> list[str]:
    adjective = [choose.lemma(phrase.adjective)] if phrase.adjective else []
    return [phrase.determiner, *adjective, choose.lemma(phrase.noun)]


def say_adjuncts(clause: Clause, choose: Chooser) -> list[str]:
    place = [clause.place[0], "the", choose.lemma(clause.place[1])] if clause.place else []
    return [*place, *(["on", clause.time] if clause.time else [])]


def say_active(clause: Clause, choose: Chooser) -> list[str]:
    verb = choose.lemma(clause.verb)
    predicate = ["did", "not", verb] if clause.negated else [add_ed(verb)]
    return [
        *say_phrase(clause.subject, choose),
        *predicate,
        *say_phrase(clause.object, choose),
        *say_adjuncts(clause, choose),
    ]


def say_passive(clause: Clause, choose: Chooser) -> list[str]:
    auxiliary = ["was", "not"] if clause.negated else ["was"]
    predicate = [*auxiliary, add_ed(choose.lemma(clause.verb)), "by"]
    return [
        *say_phrase(clause.object, choose),
        *predicate,
        *say_phrase(clause.subject, choose),
        *say_adjuncts(clause, choose),
    ]


def say(clause: Clause, choose: Chooser, passive: float = 0.3) -> list[str]:
    """The clause in words, passive with the given probability."""
    return say_passive(clause, choose) if choose.chance(passive) else say_active(clause, choose)


QUESTIONS = ("whether", "agent", "patient", "place", "time")


def ask(clause: Clause, question: str, choose: Chooser) -> list[str]:
    """The question to which the clause is the answer; what is asked for is left out.

    Args:
        question: one of `QUESTIONS`; `place` and `time` ask where and when it happened.
    """
    verb = choose.lemma(clause.verb)
    subject, object_ = say_phrase(clause.subject, choose), say_phrase(clause.object, choose)
    passive = choose.chance(0.3)
    if question == "agent":
        return ["who", "was", *object_, add_ed(verb), "by"] if passive else ["who", add_ed(verb), *object_]
    if question == "patient":
        return ["who", "was", add_ed(verb), "by", *subject] if passive else ["who", "did", *subject, verb]
    opening = {"whether": [], "place": ["where"], "time": ["when"]}[question]
    if passive:
        return [*opening, "was", *object_, add_ed(verb), "by", *subject]
    return [*opening, "did", *subject, verb, *object_]


def text(words: Sequence[str]) -> str:
    """Words joined by blanks, with `an` for `a` where the next word asks for it."""
    following = [*words[1:], ""]
    return " ".join(
        "an" if word == "a" and after[:1] in "aeiou" and after else word
        for word, after in zip(words, following, strict=True)
    )


def random_phrase(choose: Chooser, genre: str = "home", adjective: float = 0.5, unlike: Phrase | None = None) -> Phrase:
    """`the`, an adjective (with the given probability) and a noun; both other ones than in `unlike`."""
    taken = unlike or Phrase(lexicon.categories(genre)[0])
    noun = choose.other(lexicon.nouns(genre), taken.noun)
    if not choose.chance(adjective):
        return Phrase(noun)
    unwanted = (taken.adjective, lexicon.opposite(taken.adjective)) if taken.adjective else ()
    return Phrase(noun, adjective=choose.other(lexicon.adjectives(), *unwanted))


def random_clause(choose: Chooser, genre: str = "home", adjective: float = 0.5) -> Clause:
    subject = random_phrase(choose, genre, adjective)
    return Clause(subject, choose.pick(lexicon.verbs(genre)), random_phrase(choose, genre, adjective, subject))


def other_verb(verb: Word, choose: Chooser) -> Word:
    """A verb of the same genre that is neither the given one nor its opposite."""
    return choose.other(lexicon.verbs(verb.genre), verb, lexicon.opposite(verb))


def relative_noun(noun: Word, choose: Chooser) -> Word:
    """Another noun of the same category."""
    same = [word for word in lexicon.nouns(noun.genre) if word.hypernym == noun.hypernym]
    return choose.other(same, noun)


def stranger_noun(noun: Word, choose: Chooser) -> Word:
    """A noun of another category; for a category, another category."""
    if not noun.hypernym:
        return choose.other(lexicon.categories(noun.genre), noun)
    return choose.pick([word for word in lexicon.nouns(noun.genre) if word.hypernym != noun.hypernym])


def hypernym(noun: Word) -> Word:
    return Word((noun.hypernym,), "", noun.genre)


def present(verb: str, plural: bool) -> str:
    return verb if plural else add_s(verb)


def number(noun: str, plural: bool) -> str:
    return add_s(noun) if plural else noun
