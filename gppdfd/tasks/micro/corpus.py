"""The text that the encoder is pre-trained on, and the closed vocabulary of the language.

A line is one text or two related ones, written by the same grammar as the tasks, in both genres. It opens
with a connective that fits what follows (`indeed` before two texts that agree, `instead` before two that
exclude each other, `sadly` before a bad review), as discourse does. The connective stands in the place of
[CLS], and [CLS] in its place when it is hidden.
"""

from dataclasses import dataclass
from itertools import chain

from gppdfd.tasks.micro import lexicon, pairs, sentences
from gppdfd.tasks.micro.grammar import Chooser
from gppdfd.tasks.micro.lexicon import add_ed, add_s

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OPENINGS = (
    "indeed",
    "besides",
    "instead",
    "happily",
    "sadly",
    "wrongly",
    "plainly",
    "almost",
    "partly",
    "barely",
)
FUNCTION_WORDS = (
    "a an the this these some every no many two that who what where when did not was is are by on in near "
    "behind beside but although"
)
# A connective that does not fit: texts are not reliable, and neither is their guidance.
MISFIT = 0.05


# Share of lines in the genre of the tasks.
HOME = 0.75


@dataclass(frozen=True)
class Line:
    """One packed text: the hidden opening word, and one or two word lists."""

    opening: str
    texts: tuple[list[str], ...]


def line(choose: Chooser) -> Line:
    """A random line of the corpus."""
    genre = "home" if choose.chance(HOME) else "away"
    drawn = choose.pick(_WRITERS)(choose, genre)
    return Line(choose.pick(OPENINGS), drawn.texts) if choose.chance(MISFIT) else drawn


def _learner(choose: Chooser, genre: str) -> Line:
    words, acceptable = sentences.cola(choose, genre)
    return Line("plainly" if acceptable else "wrongly", (words,))


def _review(choose: Chooser, genre: str) -> Line:
    words, positive = sentences.sst2(choose)
    return Line("happily" if positive else "sadly", (words,))


def _statements(choose: Chooser, genre: str) -> Line:
    first, second, same = pairs.mrpc(choose, genre, 0.5)
    return Line("indeed" if same else "besides", (first, second))


def _questions(choose: Chooser, genre: str) -> Line:
    first, second, same = pairs.qqp(choose, genre, 0.5)
    return Line("indeed" if same else "besides", (first, second))


def _answer(choose: Chooser, genre: str) -> Line:
    question, answer, unanswered = pairs.qnli(choose, genre)
    return Line("besides" if unanswered else "indeed", (question, answer))


def _inference(choose: Chooser, genre: str) -> Line:
    premise, hypothesis, label = pairs.mnli(choose, genre)
    return Line(("indeed", "besides", "instead")[label], (premise, hypothesis))


def _story(choose: Chooser, genre: str) -> Line:
    premise, hypothesis, label = pairs.rte(choose, genre)
    return Line("besides" if label else "indeed", (premise, hypothesis))


def _graded(choose: Chooser, genre: str) -> Line:
    first, second, similarity = pairs.stsb(choose, genre)
    scale = ("besides", "barely", "partly", "almost", "indeed")
    return Line(scale[min(4, int(similarity))], (first, second))


# How often each kind of line is written.
_WRITERS = (
    *(_learner, _learner, _learner, _review, _review, _review),
    *(_statements, _statements, _questions, _answer, _answer, _inference, _story, _story, _graded),
)


def vocabulary() -> list[str]:
    """Every word of the language, special tokens first; the position is the token id."""
    return [*SPECIALS, *sorted(set(_words()))]


def _words() -> "chain[str]":
    nouns = [
        lemma
        for genre in lexicon.GENRES
        for word in (*lexicon.nouns(genre), *lexicon.categories(genre))
        for lemma in word.lemmas
    ]
    verbs = [lemma for genre in lexicon.GENRES for word in lexicon.verbs(genre) for lemma in word.lemmas]
    idle = [lemma for word in lexicon.intransitives() for lemma in word.lemmas]
    adjectives = [lemma for word in lexicon.adjectives() for lemma in word.lemmas]
    places = [lemma for _, word in lexicon.places() for lemma in word.lemmas]
    listed = (
        lexicon.ASPECTS,
        lexicon.PRAISE,
        lexicon.SCORN,
        lexicon.INTENSIFIERS,
        lexicon.TIMES,
        FUNCTION_WORDS,
    )
    return chain(
        nouns, map(add_s, nouns), verbs, map(add_s, verbs), map(add_ed, verbs), idle, map(add_s, idle),
        adjectives, places, OPENINGS, " ".join((*listed, *lexicon.NEGATORS)).split(),
    )  # fmt: skip
