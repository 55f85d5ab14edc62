"""The sentence-pair tasks. Each function draws one example: (first words, second words, label)."""

from collections.abc import Callable
from dataclasses import replace

from gppdfd.tasks.micro import lexicon
from gppdfd.tasks.micro.grammar import (
    QUESTIONS,
    Chooser,
    Clause,
    Phrase,
    ask,
    hypernym,
    other_verb,
    random_clause,
    random_phrase,
    relative_noun,
    say,
    say_active,
    say_phrase,
    stranger_noun,
)
from gppdfd.tasks.micro.lexicon import Word, add_ed

Pair = tuple[list[str], list[str], int]
Change = Callable[[Clause, Chooser], Clause]


def swap_roles(clause: Clause, choose: Chooser) -> Clause:
    return clause.swapped()


def swap_adjectives(clause: Clause, choose: Chooser) -> Clause:
    """The old dog helped the cat -> the dog helped the old cat."""
    subject, object_ = clause.subject, clause.object
    if subject.adjective == object_.adjective:
        return clause.swapped()
    return replace(
        clause,
        subject=replace(subject, adjective=object_.adjective),
        object=replace(object_, adjective=subject.adjective),
    )


def reverse_verb(clause: Clause, choose: Chooser) -> Clause:
    return replace(clause, verb=lexicon.opposite(clause.verb))


def change_verb(clause: Clause, choose: Chooser) -> Clause:
    return replace(clause, verb=other_verb(clause.verb, choose))


def change_subject(clause: Clause, choose: Chooser) -> Clause:
    return replace(clause, subject=_renamed(clause.subject, clause.object.noun, choose))


def change_object(clause: Clause, choose: Chooser) -> Clause:
    return replace(clause, object=_renamed(clause.object, clause.subject.noun, choose))


def _renamed(phrase: Phrase, taken: Word, choose: Chooser) -> Phrase:
    draw = relative_noun if choose.chance(0.5) else stranger_noun
    while (noun := draw(phrase.noun, choose)) == taken:
        pass
    return replace(phrase, noun=noun)


MEANING_CHANGES: tuple[Change, ...] = (
    swap_roles,
    swap_roles,
    swap_adjectives,
    reverse_verb,
    change_verb,
    change_subject,
    change_object,
)


def change_meaning(clause: Clause, choose: Chooser, changes: tuple[Change, ...] = MEANING_CHANGES) -> Clause:
    """Another meaning: one or more of the given changes (two in the mean)."""
    changed = choose.pick(changes)(clause, choose)
    while changed == clause or choose.chance(0.5):
        changed = choose.pick(changes)(changed, choose)
    return changed


def mrpc(choose: Chooser, genre: str = "home", positive: float = 0.45) -> Pair:
    """Two statements; 1 if they mean the same."""
    clause = random_clause(choose, genre, adjective=0.4)
    same = choose.chance(positive)
    second = clause if same else change_meaning(clause, choose)
    return say(clause, choose), say(second, choose), int(same)


def qqp(choose: Chooser, genre: str = "home", positive: float = 0.45) -> Pair:
    """Two questions; 1 if they ask the same."""
    clause, question = random_clause(choose, genre, adjective=0.25), choose.pick(QUESTIONS)
    first = ask(clause, question, choose)
    if choose.chance(positive):
        return first, ask(clause, question, choose), 1
    return first, _unlike_question(clause, question, choose), 0


def _unlike_question(clause: Clause, question: str, choose: Chooser) -> list[str]:
    if question in ("agent", "patient"):
        return _unlike_who_question(clause, question, choose)
    if question != "whether" and choose.chance(0.2):
        return ask(clause, "time" if question == "place" else "place", choose)
    return ask(change_meaning(clause, choose), question, choose)


def _unlike_who_question(clause: Clause, question: str, choose: Chooser) -> list[str]:
    """Who helped the dog -> who did the dog help; or another verb, or another known participant."""
    if choose.chance(0.5):
        return ask(clause.swapped(), "patient" if question == "agent" else "agent", choose)
    known = change_object if question == "agent" else change_subject
    return ask(change_meaning(clause, choose, (known, reverse_verb, change_verb)), question, choose)


def qnli(choose: Chooser, genre: str = "home", positive: float = 0.5) -> Pair:
    """A question and a statement; 0 (`entailment`) if the statement answers the question."""
    question = choose.pick(QUESTIONS[1:])
    clause = _with_adjunct(random_clause(choose, genre, adjective=0.2), question, choose)
    asked = ask(clause, question, choose)
    if choose.chance(positive):
        return asked, say(clause, choose), 0
    return asked, say(_unanswering(clause, question, choose), choose), 1


def _with_adjunct(clause: Clause, question: str, choose: Chooser) -> Clause:
    """With the place or time that is asked for; questions about people get one of them half of the time."""
    if question == "place" or (question != "time" and choose.chance(0.25)):
        return replace(clause, place=choose.pick(lexicon.places()))
    if question == "time" or choose.chance(0.33):
        return replace(clause, time=choose.pick(lexicon.TIMES.split()))
    return clause


def _unanswering(clause: Clause, question: str, choose: Chooser) -> Clause:
    if question in ("place", "time") and choose.chance(0.3):
        other = "time" if question == "place" else "place"
        return _with_adjunct(replace(clause, place=None, time=None), other, choose)
    known = {"agent": (change_object,), "patient": (change_subject,)}.get(question, (change_object, change_subject))
    return change_meaning(clause, choose, (swap_roles, swap_roles, reverse_verb, change_verb, *known))


# What each slot takes off a similarity of 5 when it changes.
PENALTIES = {
    "relative_subject": 0.7,
    "stranger_subject": 1.4,
    "relative_object": 0.7,
    "stranger_object": 1.4,
    "opposite_verb": 1.2,
    "other_verb": 1.2,
    "adjective": 0.5,
    "swap": 1.0,
}


def stsb(choose: Chooser, genre: str = "home") -> tuple[list[str], list[str], float]:
    """Two statements; similarity 0 to 5, lowered by each slot in which their meanings differ."""
    clause = random_clause(choose, genre, adjective=0.4)
    second, similarity = clause, 5.0
    for name in _drawn_changes(choose):
        second = _change_slot(second, name, choose)
        similarity -= PENALTIES[name]
    return say(clause, choose), say(second, choose), round(max(0.0, similarity), 2)


def _drawn_changes(choose: Chooser) -> list[str]:
    count = choose.below(5)
    slots = choose.shuffled(("subject", "object", "verb", "adjective", "swap"))[:count]
    prefixes = {
        "subject": ("relative_", "stranger_"),
        "object": ("relative_", "stranger_"),
        "verb": ("opposite_", "other_"),
    }
    named = [choose.pick(prefixes.get(slot, ("",))) + slot for slot in slots]
    return sorted(named, key=lambda name: name == "swap")


def _change_slot(clause: Clause, name: str, choose: Chooser) -> Clause:
    if name == "swap":
        return clause.swapped()
    if name == "adjective":
        return replace(clause, subject=_redescribed(clause.subject, choose))
    if name.endswith("_verb"):
        return reverse_verb(clause, choose) if name == "opposite_verb" else change_verb(clause, choose)
    draw = relative_noun if name.startswith("relative_") else stranger_noun
    role = name.partition("_")[2]
    phrase: Phrase = getattr(clause, role)
    taken = clause.object.noun if role == "subject" else clause.subject.noun
    while (noun := draw(phrase.noun, choose)) == taken:
        pass
    return clause.with_role(role, replace(phrase, noun=noun))


def _redescribed(phrase: Phrase, choose: Chooser) -> Phrase:
    return replace(phrase, adjective=choose.other((*lexicon.adjectives(), None), phrase.adjective))


ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2
DETERMINERS = ("a", "some", "the", "every", "no", "no", "no")
# Where a more general word keeps the sentence true: `a dog` says `an animal`, but `no dog` does not say
# `no animal`. (subject, predicate) per determiner of the subject.
UPWARD = {
    "a": (True, True),
    "some": (True, True),
    "the": (True, True),
    "every": (False, True),
    "no": (False, False),
}


def mnli(choose: Chooser, genre: str = "home") -> Pair:
    """Premise and hypothesis; entailment, neutral or contradiction by the logic of determiners and hypernyms.

    `every` is taken to speak of something that exists, as people take it.
    """
    label = choose.below(3)
    implied, implying = _implied_and_implying(_quantified_clause(choose, genre), choose)
    if label == ENTAILMENT:
        return _say_quantified(implying, choose), _say_quantified(implied, choose), label
    if label == CONTRADICTION:
        return _say_quantified(implying, choose), _say_quantified(_denied(implied, choose), choose), label
    if choose.chance(0.5):
        return _say_quantified(implied, choose), _say_quantified(implying, choose), label
    # Never another noun of the same category: it could still imply the hypernym.
    changed = choose.pick((swap_nouns, estrange_subject, estrange_object, change_verb))(implying, choose)
    return _say_quantified(changed, choose), _say_quantified(implied, choose), label


def _say_quantified(clause: Clause, choose: Chooser) -> list[str]:
    """Passive only where it means the same: `every` and `no` would change what they range over."""
    return say(clause, choose, 0.3 if clause.subject.determiner in ("a", "some", "the") else 0.0)


def _quantified_clause(choose: Chooser, genre: str) -> Clause:
    clause = random_clause(choose, genre, adjective=0)
    subject = replace(clause.subject, determiner=choose.pick(DETERMINERS))
    return replace(clause, subject=subject, object=replace(clause.object, determiner="a"))


def estrange_subject(clause: Clause, choose: Chooser) -> Clause:
    return replace(clause, subject=replace(clause.subject, noun=stranger_noun(clause.subject.noun, choose)))


def estrange_object(clause: Clause, choose: Chooser) -> Clause:
    return replace(clause, object=replace(clause.object, noun=stranger_noun(clause.object.noun, choose)))


def swap_nouns(clause: Clause, choose: Chooser) -> Clause:
    """Swaps the nouns and leaves the determiners where they are."""
    subject, object_ = clause.subject, clause.object
    return replace(clause, subject=replace(subject, noun=object_.noun), object=replace(object_, noun=subject.noun))


def _implied_and_implying(clause: Clause, choose: Chooser) -> tuple[Clause, Clause]:
    """The clause beside a more general or special one, in the order in which one follows from the other."""
    in_subject = choose.chance(0.5)
    upward = UPWARD[clause.subject.determiner][0 if in_subject else 1]
    general, special = _widened("subject" if in_subject else "object", clause, choose)
    return (general, special) if upward else (special, general)


def _widened(role: str, clause: Clause, choose: Chooser) -> tuple[Clause, Clause]:
    """(general, special): hypernym and noun, without and with an adjective, without and with a place."""
    phrase: Phrase = getattr(clause, role)
    kind = choose.below(4)
    if kind < 2:
        return clause.with_role(role, replace(phrase, noun=hypernym(phrase.noun))), clause
    if kind == 2 and role == "object":
        return clause, replace(clause, place=choose.pick(lexicon.places()))
    return clause, clause.with_role(role, replace(phrase, adjective=choose.pick(lexicon.adjectives())))


def _denied(clause: Clause, choose: Chooser) -> Clause:
    """A clause that cannot be true together with the given one."""
    if clause.subject.determiner == "the":
        return reverse_verb(clause, choose)
    return _with_determiner(clause, choose.pick(("a", "some", "every")) if clause.subject.determiner == "no" else "no")


def _with_determiner(clause: Clause, determiner: str) -> Clause:
    return replace(clause, subject=replace(clause.subject, determiner=determiner))


def rte(choose: Chooser, genre: str = "home", positive: float = 0.5) -> Pair:
    """A statement with a relative clause, and a simple statement; 0 (`entailment`) if it follows."""
    head, first, second = (random_phrase(choose, genre, adjective=0) for _ in range(3))
    if len({head.noun, first.noun, second.noun}) < 3:
        return rte(choose, genre, positive)
    inner_verb = choose.pick(lexicon.verbs(genre))
    outer_verb = other_verb(inner_verb, choose)
    by_head = choose.chance(0.5)
    inner = Clause(head, inner_verb, first) if by_head else Clause(first, inner_verb, head)
    outer = Clause(head, outer_verb, second)
    premise = [
        *say_phrase(head, choose),
        "that",
        *_inner_words(inner, by_head, choose),
        *_verb_phrase(outer, choose),
    ]
    if choose.chance(positive):
        return premise, say(choose.pick((inner, outer, outer)), choose), 0
    while (wrong := _unstated(inner, outer, first, choose)) in (inner, outer):
        pass
    return premise, say(wrong, choose), 1


def _unstated(inner: Clause, outer: Clause, first: Phrase, choose: Chooser) -> Clause:
    """Something the premise does not say: a fact the wrong way round, mixed of two, or about others."""
    fact = choose.pick((inner, outer))
    if choose.chance(0.4):
        return change_meaning(fact, choose, (reverse_verb, change_verb, change_subject, change_object))
    crossed = (replace(outer, subject=first), replace(fact, verb=inner.verb if fact is outer else outer.verb))
    return choose.pick((fact.swapped(), fact.swapped(), *crossed))


def _inner_words(inner: Clause, by_head: bool, choose: Chooser) -> list[str]:
    if by_head:
        return _verb_phrase(inner, choose)
    return [*say_phrase(inner.subject, choose), add_ed(choose.lemma(inner.verb))]


def _verb_phrase(clause: Clause, choose: Chooser) -> list[str]:
    return say_active(clause, choose)[len(say_phrase(clause.subject, choose)) :]
