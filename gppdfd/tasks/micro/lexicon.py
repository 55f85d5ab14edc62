"""The words of the micro language: regular English words with their synonyms, antonyms and hypernyms.

`/` separates synonyms, `:` antonyms. Every noun is animate, so every noun can do every verb to every other
one, and which does it to which can only be read from the structure of the sentence. The words of the genre
`home` are used by all tasks; those of the genre `away` only by MNLI's mismatched split and in pre-training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

GENRES = ("home", "away")

NOUNS = {
    "home": {
        "animal": "dog/hound cat/kitten horse/stallion rabbit/bunny pig/hog donkey/mule snake/serpent goat/ram",
        "worker": "doctor/physician teacher/tutor lawyer/attorney farmer/grower cook/chef guard/sentry "
        "driver/chauffeur builder/mason",
        "artist": "singer/vocalist painter/portraitist writer/author dancer/ballerina actor/performer "
        "poet/bard drummer/percussionist juggler/clown",
        "relative": "father/dad mother/mom kid/toddler brother/sibling granny/nana cousin/nephew aunt/auntie "
        "bride/fiancee",
    },
    "away": {
        "bird": "hawk/falcon crow/raven pigeon/dove hen/chicken parrot/macaw gull/tern owl/owlet duck/mallard",
        "soldier": "fighter/warrior archer/bowyer spy/agent captain/skipper sailor/mariner pilot/aviator "
        "scout/ranger knight/cavalier",
        "criminal": "burglar/robber killer/murderer liar/fraudster pirate/buccaneer smuggler/trafficker "
        "hacker/intruder bandit/outlaw vandal/wrecker",
        "athlete": "runner/sprinter boxer/pugilist swimmer/diver golfer/putter skater/skier "
        "wrestler/grappler cyclist/biker goalie/keeper",
    },
}
VERBS = {
    "home": "help/assist:harm/injure love/adore:hate/despise praise/applaud:blame/criticize "
    "trust/believe:doubt/suspect calm/soothe:anger/provoke push/shove:pull/yank "
    "reward/honor:punish/penalize amuse/entertain:bore/tire",
    "away": "defend/protect:attack/assault release/liberate:capture/arrest join/accompany:abandon/desert "
    "visit/approach:avoid/dodge",
}
INTRANSITIVES = "rest/relax laugh/giggle talk/chatter yell/shout walk/wander work/toil wait/linger dance/waltz"
ADJECTIVES = (
    "big/large:small/little old/aged:young/youthful rich/wealthy:poor/needy strong/sturdy:weak/frail "
    "quick/speedy:slow/sluggish wise/clever:stupid/dumb brave/bold:timid/fearful quiet/silent:loud/noisy "
    "happy/glad:sad/gloomy polite/civil:rude/nasty"
)
PLACES = (
    "near:river/stream in:garden/yard in:forest/wood in:kitchen/pantry near:station/depot in:church/chapel "
    "near:lake/pond in:barn/shed near:castle/fortress in:market/bazaar"
)
TIMES = "monday tuesday wednesday thursday friday saturday sunday"

ASPECTS = "film plot story cast script music ending dialogue scene joke actor song"
PRAISE = (
    "good great superb charming funny fresh moving witty brilliant lovely gripping delightful touching "
    "elegant engaging tender"
)
SCORN = "bad awful dull boring terrible bland stale clumsy tedious lame messy shallow annoying dreadful hollow tiresome"
INTENSIFIERS = "very really truly quite rather so"
# Words that turn the sentiment of what follows, one phrase per item.
NEGATORS = ("not", "never", "hardly", "far from", "anything but", "no longer")

IRREGULAR_FORMS = {"spy": "spies", "granny": "grannies"}


@dataclass(frozen=True)
class Word:
    """One meaning: its interchangeable lemmas, and where it stands among the others.

    Attributes:
        lemmas: synonyms, base form.
        hypernym: the noun category above a noun, `""` elsewhere.
        genre: the genre that uses it.
    """

    lemmas: tuple[str, ...]
    hypernym: str = ""
    genre: str = "home"


@cache
def nouns(genre: str) -> tuple[Word, ...]:
    return tuple(
        Word(tuple(entry.split("/")), hypernym, genre)
        for hypernym, entries in NOUNS[genre].items()
        for entry in entries.split()
    )


@cache
def categories(genre: str) -> tuple[Word, ...]:
    """The hypernyms themselves, usable as nouns."""
    return tuple(Word((name,), "", genre) for name in NOUNS[genre])


@cache
def verbs(genre: str) -> tuple[Word, ...]:
    return tuple(_sides(VERBS[genre], genre))


@cache
def adjectives() -> tuple[Word, ...]:
    return tuple(_sides(ADJECTIVES, "home"))


@cache
def intransitives() -> tuple[Word, ...]:
    return tuple(Word(tuple(entry.split("/"))) for entry in INTRANSITIVES.split())


@cache
def places() -> tuple[tuple[str, Word], ...]:
    """(preposition, place) pairs."""
    pairs = (entry.split(":") for entry in PLACES.split())
    return tuple((preposition, Word(tuple(names.split("/")))) for preposition, names in pairs)


@cache
def opposite(word: Word) -> Word:
    """The antonym of a verb or an adjective."""
    return _antonyms()[word]


@cache
def _antonyms() -> dict[Word, Word]:
    found: dict[Word, Word] = {}
    for listing, genre in ((VERBS["home"], "home"), (VERBS["away"], "away"), (ADJECTIVES, "home")):
        sides = list(_sides(listing, genre))
        for left, right in zip(sides[::2], sides[1::2], strict=True):
            found[left], found[right] = right, left
    return found


def _sides(listing: str, genre: str) -> Iterator[Word]:
    for entry in listing.split():
        for side in entry.split(":"):
            yield Word(tuple(side.split("/")), genre=genre)


def add_s(lemma: str) -> str:
    """Plural of a noun, or third person of a verb."""
    if lemma in IRREGULAR_FORMS:
        return IRREGULAR_FORMS[lemma]
    if lemma.endswith(("s", "sh", "ch", "x", "z")):
        return f"{lemma}es"
    return f"{lemma}s"


def add_ed(lemma: str) -> str:
    """Past form and participle of a verb (the lexicon has regular verbs only)."""
    return f"{lemma}d" if lemma.endswith("e") else f"{lemma}ed"
