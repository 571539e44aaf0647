"""How the same thing is spelled: Unicode as LaTeX, and LaTeX commands under one name each."""
# ruff: noqa: E501, SIM905
# fmt: off
# Tables: rows of like things read better than one entry a line.

from __future__ import annotations

import re
import unicodedata

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ", "0123456789+-=()n", strict=True))
SUPER_RUN = re.compile(f"[{''.join(map(re.escape, SUPERSCRIPTS))}]+")
SUB_RUN = re.compile(f"[{''.join(map(re.escape, SUBSCRIPTS))}]+")
UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "∗": "*", "÷": r"\div ", "∕": "/", "⁄": "/",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∼": r"\sim ",
    "∞": r"\infty ", "π": r"\pi ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ",
    "∖": r"\setminus ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "∘": r"\circ ", "√": r"\sqrt ",
    "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "…": r"\ldots ", "⋯": r"\ldots ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "〈": r"\langle ", "〉": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∠": r"\angle ",
    "∆": r"\triangle ", "△": r"\triangle ", "′": "'", "’": "'", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "ℓ": r"\ell ",
    "∧": r"\land ", "∨": r"\lor ", "∣": "|", "∥": r"\| ", "¢": r"\text{ cents}", "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ",
    "、": ",", "，": ",", "；": ";", "：": ":", "。": ".", "（": "(", "）": ")", "％": "%", "ⅈ": "i", "ⅇ": "e",
    "\u2061": "", "\u2062": "", "\u200b": "", "\ufeff": "", "\u2060": "", "\u2009": r"\,", "\u202f": r"\,", "\u200a": r"\,",
    "\u00a0": " ", "\u2003": " ", "\u2002": " ",
    **{letter: f"\\{unicodedata.name(letter).split()[-1].lower()} " for letter in "αβγδεζηθικμνξρστυφχψω"},
    "λ": r"\lambda ", "Δ": r"\Delta ", "Ω": r"\Omega ", "Γ": r"\Gamma ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Θ": r"\Theta ",
}

FONTS = frozenset(
    "mathbf boldsymbol bm pmb mathit mathsf mathcal mathscr mathfrak mathnormal underline displaylines ensuremath bold".split()
)
TEXTS = frozenset("text textbf textit textrm textsf texttt textnormal mbox hbox emph mathrm rm textup textsc".split())
DROPPED = frozenset(
    "left right bigl bigr bigm Bigl Bigr Bigm biggl biggr Biggl Biggr big Big bigg Bigg middle displaystyle textstyle "
    "scriptstyle scriptscriptstyle limits nolimits bf it sf tt rm cal boxed centering newline hline small large Large "
    "normalsize nonumber".split()
)
SPACES = frozenset(["(", ")", "[", "]", ",", ";", ":", "!", ">", " ", "quad", "qquad", "hfill", "thinspace", "enspace", "hskip", "\n"])
ENVIRONMENT = re.compile(r"\s*\{\s*([a-zA-Z]+)(\*?)\s*\}(?:\s*(?:\[[^\]]{0,20}\]|\{[clr|@{}\s]{0,40}\}))?")
MATRICES = frozenset("matrix pmatrix bmatrix vmatrix Bmatrix Vmatrix smallmatrix array".split())
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "lt": "<", "gt": ">", "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "geqq": ">=", "ne": "!=", "neq": "!=", "approx": "~", "simeq": "~", "cong": "~", "doteq": "~",
    "equiv": "==", "to": "->", "rightarrow": "->", "Rightarrow": "->", "implies": "->", "Longrightarrow": "->", "in": "in", "notin": "notin", "sim": "~", "colon": ":",
}
COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "cdot": "*", "times": "*", "ast": "*",
    "bullet": "*", "surd": "sqrt", "lnot": "neg", "div": "/", "lbrace": "\\{", "rbrace": "\\}", "{": "\\{", "}": "\\}", "lbrack": "[", "rbrack": "]",
    "varnothing": "emptyset", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "vdots": "ldots",
    "smallsetminus": "setminus", "backslash": "setminus", "vert": "|", "mid": "|", "degree": "circ", "degrees": "circ",
    "varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta", "R": "reals", "Z": "integers", "N": "naturals", "land": "and", "wedge": "and", "lor": "or", "vee": "or", "lVert": "|", "rVert": "|", "|": "|", "Vert": "|",
    "bar": "overline", "i": "i", "imath": "i", "e": "e", "arcsinh": "arsinh", "arccosh": "arcosh", "arctanh": "artanh",
    "overrightarrow": "vec", "widehat": "hat", "tilde": "hat", "varpi": "pi", "lparen": "(", "rparen": ")", "bigcup": "cup",
    "bigcap": "cap", "euro": "currency:euros", "pounds": "currency:pounds", "yen": "currency:yen", "$": "currency:dollars",
    "%": "%", "#": "#", "&": "&",
}
