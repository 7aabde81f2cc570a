"""For authors of upgrades, and for those who judge them: from a source to a module, and from a
module to what can be said of it.

    tools.py languages.py     the compilers, where they are found, how they are called
    cell.py apart.py          a foreign source is compiled in a cell without network or files
    build.py                  source -> module, the same bytes everywhere; `rebuild` compares
    sample.py differ.py       generated batches, and what a module answered to them
    check.py verdict.py       what is wrong with a module; a council member's verdict on it
    question.py pairs.py      what is asked and found; time, with an interval
    recorded.py               batches of real runs
    layout.py skeleton.py     where columns lie; the beginning of a source in each language
    docs.py                   docs/slots.md
"""
