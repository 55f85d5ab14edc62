"""The micro benchmark: its labels are right, its splits are clean, its encoder loads."""

import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from gppdfd.errors import UsageError
from gppdfd.tasks import micro
from gppdfd.tasks.base import TaskData
from gppdfd.tasks.micro import MODEL, SPECS, build, corpus, draw, lexicon, load, pairs, sentences
from gppdfd.tasks.micro.grammar import Chooser, Clause, Phrase, ask, say, say_active, say_passive, text
from gppdfd.tasks.micro.lexicon import Word

TASKS = tuple(SPECS)
SEEDS = st.integers(0, 2**40)


@pytest.fixture(scope="module")
def tasks() -> dict[str, TaskData]:
    return {name: load(name) for name in TASKS}


def word(*lemmas: str, hypernym: str = "") -> Word:
    return Word(lemmas, hypernym)


def noun(lemma: str) -> Word:
    return next(word for genre in lexicon.GENRES for word in lexicon.nouns(genre) if lemma in word.lemmas)


def verb(lemma: str) -> Word:
    return next(word for genre in lexicon.GENRES for word in lexicon.verbs(genre) if lemma in word.lemmas)


def meanings(words: list[str]) -> list[str]:
    """Words with every synonym replaced by the first of its kind, inflected verbs by their base."""
    return [_first_synonyms().get(word, word) for word in words]


def _first_synonyms() -> dict[str, str]:
    verbs = [verb for genre in lexicon.GENRES for verb in lexicon.verbs(genre)]
    nouns = [noun for genre in lexicon.GENRES for noun in lexicon.nouns(genre)]
    table = {lemma: entry.lemmas[0] for entry in (*nouns, *verbs, *lexicon.adjectives()) for lemma in entry.lemmas}
    return table | {lexicon.add_ed(lemma): entry.lemmas[0] for entry in verbs for lemma in entry.lemmas}


def facts(words: list[str]) -> set[tuple[str, str, str]]:
    """(agent, verb, patient) of a statement of `rte` or `mrpc`: an independent little parser."""
    plain = [word for word in meanings(words) if word not in {entry.lemmas[0] for entry in lexicon.adjectives()}]
    if "that" in plain:
        return _facts_with_relative_clause(plain)
    if "was" in plain:
        plain = [w for w in plain if w != "the"]
        return {(plain[4], plain[2], plain[0])}
    return {(plain[1], plain[2], plain[4])}


def _facts_with_relative_clause(plain: list[str]) -> set[tuple[str, str, str]]:
    head, after = plain[1], plain[3:]
    if after[0] == "the":
        return {(after[1], after[2], head), (head, after[3], after[5])}
    return {(head, after[0], after[2]), (head, after[3], after[5])}


# --- rows ---


@pytest.mark.parametrize("name", TASKS)
def test_same_seed_same_rows(name: str, tasks: dict[str, TaskData]) -> None:
    again, other = load(name), load(name, seed=1)
    assert again.content == tasks[name].content != other.content
    assert again.train.texts == tasks[name].train.texts


@pytest.mark.parametrize("name", TASKS)
def test_no_text_occurs_twice(name: str, tasks: dict[str, TaskData]) -> None:
    splits = (tasks[name].train, *tasks[name].evaluations.values())
    rows = [row for split in splits for row in zip(*split.texts, strict=True)]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_legal_and_balanced(name: str, tasks: dict[str, TaskData]) -> None:
    data = tasks[name]
    for split in (data.train, *data.evaluations.values()):
        assert len(split) == len(split.ids) == len(split.texts[0])
        if data.spec.regression:
            low, high = data.spec.label_range
            assert split.labels.dtype == np.float32
            assert low <= split.labels.min() < split.labels.max() <= high
            continue
        shares = np.bincount(split.labels, minlength=data.spec.outputs) / len(split)
        assert len(shares) == data.spec.outputs
        assert np.abs(shares - 1 / data.spec.outputs).max() < 0.12


@pytest.mark.parametrize("name", ["mrpc", "qqp"])
def test_always_yes_is_not_the_majority_where_f1_counts(name: str, tasks: dict[str, TaskData]) -> None:
    assert tasks[name].train.labels.mean() < 0.48


@pytest.mark.parametrize("name", TASKS)
def test_every_word_has_a_token_and_lengths_stay_short(name: str, tasks: dict[str, TaskData]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for split in (tasks[name].train, *tasks[name].evaluations.values()):
        ids = tokenizer(*split.texts)["input_ids"]
        lengths = [len(row) for row in ids]
        assert tokenizer.unk_token_id not in {token for row in ids for token in row}
        assert 8 <= np.median(lengths) <= 20
        assert max(lengths) <= 28


@pytest.mark.parametrize("name", TASKS)
def test_a_twentieth_of_the_labels_is_wrong(
    name: str, tasks: dict[str, TaskData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro, "WRONG_LABELS", 0.0)
    right = load(name)
    assert right.train.texts == tasks[name].train.texts
    assert (right.train.labels != tasks[name].train.labels).mean() == pytest.approx(0.05, abs=0.02)


def test_mismatched_mnli_has_other_nouns_and_verbs(tasks: dict[str, TaskData]) -> None:
    home, away = (
        Counter(" ".join(chain(*tasks["mnli"].evaluations[split].texts)).split()) for split in ("matched", "mismatched")
    )
    contents = {lemma for genre in lexicon.GENRES for word in lexicon.nouns(genre) for lemma in word.lemmas}
    assert not contents & home.keys() & away.keys()
    assert contents & away.keys()


def test_unknown_task_names_the_near_one() -> None:
    with pytest.raises(UsageError, match="sst2"):
        load("sst-2")


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_choices_do_not_depend_on_the_library(seed: int) -> None:
    choose = Chooser(seed)
    assert sorted(choose.shuffled("abcdef")) == list("abcdef")
    assert choose.other("ab", "a") == "b"


def test_choices_are_pinned() -> None:
    choose = Chooser(0)
    assert [choose.below(100) for _ in range(5)] == [84, 75, 42, 25, 51]


# --- words ---


def test_inflection() -> None:
    assert [lexicon.add_s(lemma) for lemma in ("dog", "push", "spy", "kitten")] == [
        "dogs",
        "pushes",
        "spies",
        "kittens",
    ]
    assert [lexicon.add_ed(lemma) for lemma in ("love", "help")] == ["loved", "helped"]


def test_each_lemma_means_one_thing() -> None:
    groups = [
        *lexicon.nouns("home"),
        *lexicon.nouns("away"),
        *lexicon.verbs("home"),
        *lexicon.verbs("away"),
        *lexicon.adjectives(),
    ]
    lemmas = [lemma for entry in groups for lemma in entry.lemmas]
    assert len(lemmas) == len(set(lemmas))


def test_opposites_are_mutual() -> None:
    for entry in (*lexicon.verbs("home"), *lexicon.verbs("away"), *lexicon.adjectives()):
        assert lexicon.opposite(lexicon.opposite(entry)) == entry != lexicon.opposite(entry)


def test_article_before_a_vowel() -> None:
    assert text(["a", "old", "a", "dog", "a"]) == "an old a dog a"


# --- sentences ---

CLAUSE = Clause(Phrase(word("dog")), word("help"), Phrase(word("cat"), adjective=word("old")))


def test_active_and_passive() -> None:
    assert text(say_active(CLAUSE, Chooser(0))) == "the dog helped the old cat"
    assert text(say_passive(CLAUSE, Chooser(0))) == "the old cat was helped by the dog"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("agent", {"who helped the old cat", "who was the old cat helped by"}),
        ("patient", {"who did the dog help", "who was helped by the dog"}),
        ("whether", {"did the dog help the old cat", "was the old cat helped by the dog"}),
        ("place", {"where did the dog help the old cat", "where was the old cat helped by the dog"}),
        ("time", {"when did the dog help the old cat", "when was the old cat helped by the dog"}),
    ],
)
def test_questions(question: str, expected: set[str]) -> None:
    assert {text(ask(CLAUSE, question, Chooser(seed))) for seed in range(30)} == expected


PLURALS = {lexicon.add_s(lemma) for genre in lexicon.GENRES for entry in lexicon.nouns(genre) for lemma in entry.lemmas}
FINITE = {
    form: form != base
    for entry in (*lexicon.verbs("home"), *lexicon.intransitives())
    for base in entry.lemmas
    for form in (base, lexicon.add_s(base))
} | {"is": True, "are": False}


def agrees(words: list[str]) -> bool:
    """Independent check of a sentence without modifier: first noun against first finite verb."""
    subject = next(word for word in words if word in PLURALS or word in SINGULARS)
    finite = next(word for word in words[2:] if word in FINITE)
    return (subject in PLURALS) != FINITE[finite]


SINGULARS = {lemma for entry in lexicon.nouns("home") for lemma in entry.lemmas}


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_simple_sentences_agree_unless_spoiled(seed: int) -> None:
    good = sentences.sentence(Chooser(seed))
    spoiled = sentences.sentence(Chooser(seed), fault="agreement")
    assert good != spoiled
    if not {"that", "near", "behind", "beside"} & set(good):
        assert agrees(good)
        assert not agrees(spoiled)


@given(seed=SEEDS, fault=st.sampled_from(sorted(set(sentences.FAULTS))))
@settings(max_examples=200, deadline=None)
def test_every_fault_changes_the_sentence(seed: int, fault: str) -> None:
    words = sentences.sentence(Chooser(seed), fault=fault)
    determiner, head = words[0], words[1]
    if fault == "determiner" and head in PLURALS:
        assert determiner in sentences.SINGULAR_ONLY
    if fault == "determiner" and head in SINGULARS:
        assert determiner in sentences.PLURAL_ONLY
    if fault == "inner_agreement":
        assert "that" in words


@pytest.mark.parametrize(
    ("words", "good"),
    [
        ("the film was great", True),
        ("the film was not great", False),
        ("the film was far from dull", True),
        ("the plot was bad but the cast was never boring", True),
        ("although the plot was superb the cast was anything but good", False),
        ("the plot was lame although the cast was funny", False),
    ],
)
def test_verdict_of_reviews(words: str, good: bool) -> None:
    assert verdict(words) == good


def verdict(words: str) -> bool:
    """Independent reading of a review: the clause that counts, its adjective, its negator."""
    clauses = words.removeprefix("although ").split(" the ")
    counts = clauses[-1] if words.startswith("although") or " but the " in words else clauses[0]
    counts = words.split(" although ")[0] if " although " in words else counts
    negated = any(negator in counts for negator in lexicon.NEGATORS)
    return (counts.split()[-1] in lexicon.PRAISE.split()) != negated


@given(seed=SEEDS, positive=st.booleans())
@settings(max_examples=200, deadline=None)
def test_reviews_say_what_they_should(seed: int, positive: bool) -> None:
    assert verdict(text(sentences.review(Chooser(seed), positive))) == positive


# --- pairs ---


def test_facts_of_hand_written_statements() -> None:
    assert facts(["the", "hound", "was", "assisted", "by", "the", "old", "cat"]) == {("cat", "help", "dog")}
    assert facts(["the", "dog", "that", "the", "cat", "loved", "helped", "the", "singer"]) == {
        ("cat", "love", "dog"),
        ("dog", "help", "singer"),
    }


@given(seed=SEEDS)
@settings(max_examples=300, deadline=None)
def test_rte_follows_exactly_when_it_is_a_stated_fact(seed: int) -> None:
    premise, hypothesis, label = pairs.rte(Chooser(seed))
    assert (facts(hypothesis) <= facts(premise)) == (label == 0)


@given(seed=SEEDS)
@settings(max_examples=300, deadline=None)
def test_mrpc_paraphrases_state_the_same_fact(seed: int) -> None:
    first, second, same = pairs.mrpc(Chooser(seed))
    if same:
        assert facts(first) == facts(second)
    elif "was" not in first and "was" not in second:
        assert meanings(first) != meanings(second)


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_stsb_is_5_exactly_for_paraphrases(seed: int) -> None:
    first, second, similarity = pairs.stsb(Chooser(seed))
    assert 0 <= similarity <= 5
    if similarity == 5:
        assert facts(first) == facts(second)


@pytest.mark.parametrize("determiner", sorted(pairs.UPWARD))
def test_determiners_conclude_in_the_right_direction(determiner: str) -> None:
    """`a dog` implies `an animal`; `no` and `every` turn the subject around, `no` the object too."""
    worlds = [frozenset(world) for world in _subsets([(s, o) for s in ("dog", "horse") for o in ("poet", "singer")])]
    wide, narrow = ("dog", "horse"), ("dog",)
    objects = ("poet", "singer"), ("poet",)
    for in_subject, (general, special) in ((True, (wide, narrow)), (False, objects)):
        true = [
            all(
                _holds(determiner, *_sets(in_subject, conclusion), world)
                for world in worlds
                if _holds(determiner, *_sets(in_subject, given), world)
            )
            for given, conclusion in ((special, general), (general, special))
        ]
        upward = pairs.UPWARD[determiner][0 if in_subject else 1]
        if determiner != "the":
            assert true == [upward, not upward]


def _sets(in_subject: bool, members: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (members, ("poet",)) if in_subject else (("dog", "horse"), members)


def _holds(
    determiner: str, subjects: tuple[str, ...], objects: tuple[str, ...], world: frozenset[tuple[str, str]]
) -> bool:
    """Whether `determiner subjects helped an object` is true where `world` lists who helped whom."""
    each = [any((subject, object_) in world for object_ in objects) for subject in subjects]
    return {"every": all(each), "no": not any(each)}.get(determiner, any(each))


def _subsets(items: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    return [[item for bit, item in enumerate(items) if number >> bit & 1] for number in range(2 ** len(items))]


@given(seed=SEEDS)
@settings(max_examples=300, deadline=None)
def test_mnli_contradictions_oppose_determiner_or_verb(seed: int) -> None:
    premise, hypothesis, label = pairs.mnli(Chooser(seed))
    negations = ("no" in premise) != ("no" in hypothesis)
    opposed = any(
        entry in meanings(premise) and lexicon.opposite(verb(entry)).lemmas[0] in meanings(hypothesis)
        for entry in _verbs()
    )
    assert (negations or opposed) == (label == pairs.CONTRADICTION)


def _verbs() -> list[str]:
    return [entry.lemmas[0] for entry in lexicon.verbs("home")]


@given(seed=SEEDS)
@settings(max_examples=300, deadline=None)
def test_qnli_answers_hold_what_was_asked(seed: int) -> None:
    question, statement, label = pairs.qnli(Chooser(seed))
    if label:
        return
    assert question[0] != "where" or {"in", "near"} & set(statement)
    assert question[0] != "when" or "on" in statement
    asked = set(meanings(question)) - {"who", "where", "when", "did", "was", "by"}
    assert asked <= set(meanings(statement))


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_drawn_changes_change_the_meaning(seed: int) -> None:
    choose = Chooser(seed)
    clause = pairs.random_clause(choose)
    for change in pairs.MEANING_CHANGES:
        assert change(clause, choose) != clause


@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_saying_keeps_the_fact(seed: int) -> None:
    choose = Chooser(seed)
    clause = pairs.random_clause(choose)
    assert facts(say(clause, choose)) == {
        (clause.subject.noun.lemmas[0], clause.verb.lemmas[0], clause.object.noun.lemmas[0])
    }


# --- corpus and model ---


def test_the_vocabulary_covers_the_corpus() -> None:
    choose, known = Chooser(3), set(corpus.vocabulary())
    lines = [corpus.line(choose) for _ in range(3000)]
    assert {word for line in lines for words in line.texts for word in text(words).split()} <= known
    assert {line.opening for line in lines} == set(corpus.OPENINGS)


def test_shipped_tokenizer_is_the_one_that_build_makes() -> None:
    shipped, built = AutoTokenizer.from_pretrained(MODEL), build.tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped("the dog helped", "the cat") == built("the dog helped", "the cat")
    assert shipped("the dog", "the cat")["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_packed_lines_are_what_the_tokenizer_gives() -> None:
    choose, tokenizer = Chooser(5), build.tokenizer()
    ids = tokenizer.get_vocab()
    for line in [corpus.line(choose) for _ in range(50)]:
        packed, types, opening = build.pack([line], ids)
        expected = tokenizer(*(text(words) for words in line.texts))
        assert packed[0].tolist() == expected["input_ids"]
        assert types[0].tolist() == expected["token_type_ids"]
        assert opening.tolist() == [ids[line.opening]]


def test_shipped_encoder_loads_whole() -> None:
    model, loading = AutoModel.from_pretrained(MODEL, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config = model.config
    assert (
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
    ) == (4, 128, 8, 512)
    assert config.vocab_size == len(corpus.vocabulary())
    assert (MODEL / "model.safetensors").stat().st_size < 5_000_000
    assert json.loads((MODEL / "build.json").read_text())["final_losses"]


def test_two_pretraining_steps_run_and_repeat() -> None:
    tiny = build.Settings(steps=2, batch_size=4, warmup=1, precision="fp32")
    first, second = (build.pretrain(tiny) for _ in range(2))
    assert first[1] == second[1]


def test_hidden_words_follow_berts_rule() -> None:
    ids = torch.full((200, 50), 100)
    ids[:, 0], ids[:, -1] = build.CLS, build.SEP
    seen, targets = build.hide(ids, torch.full((200,), 9), 0.2, 600, torch.Generator().manual_seed(0))
    hidden = targets[:, 1:] != build.IGNORED
    opening_hidden = targets[:, 0] == 9
    assert (seen[opening_hidden, 0] == build.CLS).all()
    assert (seen[~opening_hidden, 0] == 9).all()
    assert (targets[~opening_hidden, 0] == build.IGNORED).all()
    assert opening_hidden.float().mean().item() == pytest.approx(1 - build.SHOWN, abs=0.1)
    assert not hidden[:, -1].any()
    assert hidden[:, :-1].float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (seen[:, 1:][hidden] == build.MASK).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert torch.equal(seen[:, 1:][~hidden], ids[:, 1:][~hidden])


@pytest.mark.parametrize("name", TASKS)
def test_a_drawn_example_fits_the_columns(name: str) -> None:
    texts, _ = draw(name, Chooser(1))
    assert len(texts) == len(SPECS[name].columns)
