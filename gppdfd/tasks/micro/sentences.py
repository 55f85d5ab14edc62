"""The single-sentence tasks: `cola` (is it grammatical?) and `sst2` (is the opinion good or bad?)."""

from dataclasses import dataclass

from gppdfd.tasks.micro import lexicon
from gppdfd.tasks.micro.grammar import Chooser, number, present

SINGULAR_ONLY = ("a", "every", "this")
PLURAL_ONLY = ("these", "many", "two")


@dataclass(frozen=True)
class Nominal:
    """A noun phrase in the present-tense language of `cola`, ready to be spoiled."""

    determiner: str
    adjective: str | None
    noun: str
    plural: bool

    def words(self) -> list[str]:
        return [
            self.determiner,
            *([self.adjective] if self.adjective else []),
            number(self.noun, self.plural),
        ]


def nominal(choose: Chooser, genre: str, plural: bool | None = None, adjective: float = 0.3) -> Nominal:
    plural = choose.chance(0.5) if plural is None else plural
    determiner = choose.pick(("the", "the", *(PLURAL_ONLY if plural else SINGULAR_ONLY)))
    described = choose.lemma(choose.pick(lexicon.adjectives())) if choose.chance(adjective) else None
    return Nominal(determiner, described, choose.lemma(choose.pick(lexicon.nouns(genre))), plural)


def _transitive(choose: Chooser, genre: str) -> str:
    return choose.lemma(choose.pick(lexicon.verbs(genre)))


def modifier(choose: Chooser, genre: str, subject: Nominal, spoiled: bool = False) -> list[str]:
    """What follows the subject: a place or a relative clause; `spoiled` breaks the agreement inside it."""
    inner = nominal(choose, genre, plural=not subject.plural if choose.chance(0.7) else subject.plural, adjective=0)
    if not spoiled and choose.chance(0.34):
        return [choose.pick(("near", "behind", "beside")), *inner.words()]
    verb = _transitive(choose, genre)
    if choose.chance(0.5):
        return ["that", present(verb, subject.plural != spoiled), *inner.words()]
    return ["that", *inner.words(), present(verb, inner.plural != spoiled)]


def predicate(choose: Chooser, genre: str, plural: bool) -> list[str]:
    """A present-tense verb phrase for a subject of the given number."""
    kind = choose.below(4)
    if kind == 0:
        return [present(choose.lemma(choose.pick(lexicon.intransitives())), plural)]
    if kind == 1:
        return ["are" if plural else "is", choose.lemma(choose.pick(lexicon.adjectives()))]
    return [present(_transitive(choose, genre), plural), *nominal(choose, genre).words()]


FAULTS = ("agreement", "agreement", "agreement", "inner_agreement", "determiner", "order", "missing")


def sentence(choose: Chooser, genre: str = "home", fault: str | None = None) -> list[str]:
    """A present-tense sentence, grammatical or with one named fault of `FAULTS`."""
    subject = nominal(choose, genre)
    inner = modifier(choose, genre, subject, fault == "inner_agreement")
    if fault != "inner_agreement" and choose.chance(0.3):
        inner = []
    verb_phrase = predicate(choose, genre, subject.plural != (fault == "agreement"))
    subject_words = _spoil(subject, fault, choose) if fault else subject.words()
    return [*subject_words, *inner, *verb_phrase]


def _spoil(subject: Nominal, fault: str, choose: Chooser) -> list[str]:
    words = subject.words()
    if fault == "determiner":
        # The noun keeps its number and so agrees with its verb; only the determiner is wrong.
        return [choose.pick(SINGULAR_ONLY if subject.plural else PLURAL_ONLY), *words[1:]]
    if fault == "order":
        place = choose.below(len(words) - 1)
        return [*words[:place], words[place + 1], words[place], *words[place + 2 :]]
    if fault == "missing":
        return words[:-1]
    return words


def cola(choose: Chooser, genre: str = "home") -> tuple[list[str], int]:
    """(words, 1 if grammatical)."""
    acceptable = choose.chance(0.5)
    return sentence(choose, genre, None if acceptable else choose.pick(FAULTS)), int(acceptable)


def opinion(choose: Chooser, positive: bool) -> list[str]:
    """One clause that says something good or bad, sometimes by negating the opposite."""
    negated = choose.chance(0.3)
    words = (lexicon.PRAISE if positive != negated else lexicon.SCORN).split()
    negator = choose.pick(lexicon.NEGATORS).split() if negated else []
    intensifier = [choose.pick(lexicon.INTENSIFIERS.split())] if choose.chance(0.4) else []
    return ["the", choose.pick(lexicon.ASPECTS.split()), "was", *negator, *intensifier, choose.pick(words)]


def review(choose: Chooser, positive: bool) -> list[str]:
    """One opinion, or two opposed ones of which `but` and `although` say which one counts."""
    kind = choose.below(6)
    verdict = opinion(choose, positive)
    if kind < 3:
        return verdict
    aside = opinion(choose, not positive)
    if kind == 3:
        return [*aside, "but", *verdict]
    return ["although", *aside, *verdict] if kind == 4 else [*verdict, "although", *aside]


def sst2(choose: Chooser) -> tuple[list[str], int]:
    """(words, 1 if the verdict is good)."""
    positive = choose.chance(0.5)
    return review(choose, positive), int(positive)
