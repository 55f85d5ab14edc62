"""One table, three formats: csv for programs, Markdown for reading, LaTeX (booktabs) for papers.

A table is built once from strings that are already rounded; the writers only add markup, so the numbers
agree.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gppdfd.files import write_text
from suites.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd

DASH = "–"
NO_EVIDENCE = "at most 1 point above the majority class on one of its metrics: no evidence of learning"
BETTER = f"scores above those of the reference method's runs, Holm-corrected p < {ALPHA:g}"
WORSE = f"scores below those of the reference method's runs, Holm-corrected p < {ALPHA:g}"
UNNAMED = "the source does not name the metric"
_FIXED_SIGNS = {NO_EVIDENCE: "†", BETTER: "↑", WORSE: "↓", UNNAMED: "?"}


@dataclass(frozen=True)
class Number:
    """One printed number, its printed standard deviation (or nothing), whether it is its block's best."""

    text: str  # empty: unknown, beside numbers that are known
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class Cell:
    """Numbers joined by a slash (none: a dash) and marks, each the text of a footnote.

    `ranked` says whether the cell competes for the best of its block; `unnamed` that its number is on a metric that
    nobody named, so that it belongs to none of the column's parts.
    """

    numbers: tuple[Number, ...] = ()
    marks: tuple[str, ...] = ()
    ranked: bool = True
    unnamed: bool = False


@dataclass(frozen=True)
class Column:
    """Title, the names of the numbers in each cell (if they need names) and marks for the whole column."""

    title: str
    parts: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Label, cells, and marks that hold for the whole row, such as the source of published numbers."""

    label: str
    cells: tuple[Cell, ...]
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Rows that may be compared with each other."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A whole table; `corner` names the columns of block titles and row labels, `notes` go below it."""

    name: str
    caption: str
    corner: tuple[str, str]
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()

    def signs(self) -> dict[str, str]:
        """Sign of each footnote text, lettered in reading order."""
        texts = list(dict.fromkeys(mark for mark in self._marks() if mark not in _FIXED_SIGNS))
        fixed = {text: sign for text, sign in _FIXED_SIGNS.items() if text in set(self._marks())}
        return fixed | {text: letters(place) for place, text in enumerate(texts)}

    def _marks(self) -> Iterator[str]:
        for column in self.columns:
            yield from column.marks
        for block in self.blocks:
            for row in block.rows:
                yield from row.marks
                for cell in row.cells:
                    yield from cell.marks


def letters(place: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa: footnote letters without an end."""
    rest, last = divmod(place, 26)
    return (letters(rest - 1) if rest else "") + chr(ord("a") + last)


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write `<name>.csv`, `.md` and `.tex`; returns their paths."""
    texts = {"csv": to_csv(table), "md": to_markdown(table), "tex": to_latex(table)}
    paths = [folder / f"{table.name}.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


# --- csv: one column per number, its sd beside it, notes in words ---

_ROW_NOTES, _UNNAMED_PART = "notes", "unnamed metric"


def to_csv(table: Table) -> str:
    """Plain numbers; empty where there is none; footnotes as words in a column of their own."""
    import pandas as pd

    rows = [
        dict(zip(table.corner, (block.title, row.label), strict=True)) | _csv_cells(table, row)
        for block in table.blocks
        for row in block.rows
    ]
    frame = pd.DataFrame(rows, columns=[*table.corner, *_csv_columns(table)])
    return frame.to_csv(index=False, lineterminator="\n")


def _csv_columns(table: Table) -> list[str]:
    """Names in reading order; sd and notes only where the column has any."""
    names = [_ROW_NOTES] if any(row.marks for block in table.blocks for row in block.rows) else []
    for place, column in enumerate(table.columns):
        cells = [row.cells[place] for block in table.blocks for row in block.rows]
        spread = any(number.spread for cell in cells for number in cell.numbers)
        for part in _csv_parts(column):
            names += [part, f"{part} sd"] if spread else [part]
        if any(cell.unnamed for cell in cells):
            names.append(f"{column.title} {_UNNAMED_PART}")
        if column.marks or any(cell.marks for cell in cells):
            names.append(f"{column.title} notes")
    return names


def _csv_parts(column: Column) -> list[str]:
    return [f"{column.title} {part}" for part in column.parts] or [column.title]


def _csv_cells(table: Table, row: Row) -> dict[str, str]:
    values = {_ROW_NOTES: "; ".join(row.marks)}
    for column, cell in zip(table.columns, row.cells, strict=True):
        parts = [f"{column.title} {_UNNAMED_PART}"] if cell.unnamed else _csv_parts(column)
        for part, number in zip(parts, cell.numbers, strict=False):
            values |= {part: number.text, f"{part} sd": number.spread}
        values[f"{column.title} notes"] = "; ".join((*column.marks, *cell.marks))
    return values


# --- Markdown and LaTeX: the same walk in two dialects ---


@dataclass(frozen=True)
class Dialect:
    """How a markup language writes plain text, a best number, a spread and a footnote sign."""

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    spread: Callable[[str], str]
    raised: Callable[[str], str]

    def number(self, number: Number) -> str:
        text = self.escape(number.text or DASH)
        shown = self.bold(text) if number.best else text
        return shown + self.spread(number.spread) if number.spread else shown

    def cell(self, cell: Cell, signs: dict[str, str]) -> str:
        numbers = "/".join(map(self.number, cell.numbers)) or self.escape(DASH)
        return numbers + self.marks(cell.marks, signs)

    def marks(self, marks: tuple[str, ...], signs: dict[str, str]) -> str:
        return self.raised(",".join(signs[mark] for mark in marks)) if marks else ""

    def footnotes(self, table: Table) -> list[str]:
        notes = [f"{self.raised(sign)} {self.escape(text)}" for text, sign in table.signs().items()]
        return notes + [self.escape(note) for note in table.notes]

    def grid(self, table: Table) -> list[list[str]]:
        """Rows of marked-up texts; a block's title stands in its first row only."""
        signs = table.signs()
        return [
            [self.escape("" if place else block.title), self.escape(row.label) + self.marks(row.marks, signs)]
            + [self.cell(cell, signs) for cell in row.cells]
            for block in table.blocks
            for place, row in enumerate(block.rows)
        ]


_MARKDOWN_SPECIAL = re.compile(r"([\\`*_|<>\[\]])")
MARKDOWN = Dialect(
    escape=lambda text: _MARKDOWN_SPECIAL.sub(r"\\\1", text),
    bold="**{}**".format,
    spread="±{}".format,
    raised="<sup>{}</sup>".format,
)


def to_markdown(table: Table) -> str:
    """A pipe table with footnotes; headers have the metric below the task."""
    signs = table.signs()
    heads = [MARKDOWN.escape(name) for name in table.corner] + [
        "<br>".join(filter(None, (_head(column, MARKDOWN, signs), MARKDOWN.escape("/".join(column.parts)))))
        for column in table.columns
    ]
    rule = [":--", ":--", *["--:"] * len(table.columns)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rule, *MARKDOWN.grid(table))]
    notes = "  \n".join(MARKDOWN.footnotes(table))
    return f"**{MARKDOWN.escape(table.caption)}**\n\n" + "\n".join(lines) + f"\n\n{notes}\n"


def _head(column: Column, dialect: Dialect, signs: dict[str, str]) -> str:
    return dialect.escape(column.title) + dialect.marks(column.marks, signs)


_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho varsigma sigma tau upsilon phi "
    "chi psi omega"
)
_GREEK = dict(zip("αβγδεζηθικλμνξπρςστυφχψω", _GREEK_NAMES.split(), strict=True))
# These have no command, and need none.
_LIKE_LATIN = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True))
_LATEX_SPECIAL = str.maketrans(
    {
        **{letter: f"$\\{name}$" for letter, name in _GREEK.items()},
        **{letter: f"$\\{_GREEK[letter.lower()].capitalize()}$" for letter in "ΓΔΘΛΞΠΣΥΦΨΩ"},
        **_LIKE_LATIN,
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        DASH: "--",
        "—": "---",
        "…": r"\ldots{}",
        "×": r"$\times$",
        "±": r"$\pm$",
        "−": "$-$",
        "†": r"$\dagger$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "≈": r"$\approx$",
        "→": r"$\rightarrow$",
        "←": r"$\leftarrow$",
        "↔": r"$\leftrightarrow$",
    }
)
# All but Latin letters and punctuation.
_NOT_IN_PDFLATEX = re.compile(r"[^\u0000-\u024f\u2000-\u20ff]")
_NEGATIVE = re.compile(r"-\d+(\.\d+)?")


def _escape_latex(text: str) -> str:
    # A hyphen is too short for a minus sign.
    return f"$-${text[1:]}" if _NEGATIVE.fullmatch(text) else text.translate(_LATEX_SPECIAL)


LATEX = Dialect(
    escape=_escape_latex,
    bold=r"\textbf{{{}}}".format,
    spread=r"{{\scriptsize$\pm${}}}".format,
    raised=lambda text: rf"\textsuperscript{{{_escape_latex(text)}}}",
)
# Shrinks a table that is too wide for the page and leaves the others as they are.
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
# Nothing can shrink a table that breaks across pages, so it is set small and narrow throughout.
_SMALL = r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}"
MOST_ROWS = 40
"""More rows do not fit on one page."""


def to_latex(table: Table) -> str:
    """A booktabs table with its notes below: one that floats, or one that breaks across pages if it is long."""
    long = sum(len(block.rows) for block in table.blocks) > MOST_ROWS
    text = _to_long_latex(table) if long else _to_floating_latex(table)
    if foreign := "".join(dict.fromkeys(_NOT_IN_PDFLATEX.findall(text))):
        return f"% pdflatex cannot write {foreign}: needs lualatex or xelatex, and a font that has them\n{text}"
    return text


def _to_floating_latex(table: Table) -> str:
    head, rows = _latex(table, environment="table*", position="tbp", position_float="centering").split("\\midrule\n")
    text = head + "\\midrule\n" + _with_rules(rows, table)
    notes = f"\\begin{{minipage}}{{\\linewidth}}\\footnotesize\\raggedright\n{_latex_notes(table)}\n\\end{{minipage}}"
    fitted = (
        text.replace("\\begin{tabular}", f"{_FIT}\n\\begin{{tabular}}")
        .replace("\\end{tabular}", "\\end{tabular}}")
        .replace("\\end{table*}", f"\\par\\smallskip{notes}\n\\end{{table*}}")
    )
    return "% needs \\usepackage{booktabs,graphicx}\n" + fitted


def _to_long_latex(table: Table) -> str:
    head, rows = _latex(table, environment="longtable").split("\\endlastfoot\n")
    text = head + "\\endlastfoot\n" + _with_rules(rows, table)
    notes = f"{{\\noindent\\raggedright\n{_latex_notes(table)}\n\\par}}"
    needs = "% needs \\usepackage{booktabs,longtable}, and \\onecolumn before it where the text has two columns\n"
    return f"{needs}{_SMALL}\n{text}{notes}\n\\endgroup\n"


def _latex(table: Table, **environment: Any) -> str:
    import pandas as pd

    frame = pd.DataFrame(LATEX.grid(table), columns=_latex_heads(table))
    text: str = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="ll" + "r" * len(table.columns),
        caption=LATEX.escape(table.caption),
        label=f"tab:{table.name}",
        multicol_align="r",
        **environment,
    )
    return text


def _latex_heads(table: Table) -> "pd.Index":
    """One header row, or two where cells have several named numbers."""
    import pandas as pd

    signs = table.signs()
    corner = [LATEX.escape(name) for name in table.corner]
    titles = [_head(column, LATEX, signs) for column in table.columns]
    parts = [LATEX.escape("/".join(column.parts)) for column in table.columns]
    if not any(parts):
        return pd.Index([*corner, *titles])
    return pd.MultiIndex.from_tuples([*(("", name) for name in corner), *zip(titles, parts, strict=True)])


def _with_rules(rows: str, table: Table) -> str:
    """A rule between blocks."""
    lines = rows.splitlines(keepends=True)
    ends = list(accumulate(len(block.rows) for block in table.blocks))[:-1]
    for end in reversed(ends):
        lines.insert(end, "\\midrule\n")
    return "".join(lines)


def _latex_notes(table: Table) -> str:
    return "\n".join(f"{note}\\\\" for note in LATEX.footnotes(table)).removesuffix("\\\\")
