"""The lab: faults of training, caused on purpose on real digits, named by the doctor, and cured.

`pathologies.py` says which there are: each is an edit of one healthy program, `healthy.py`, and a cure is an edit of what came of it.
`experiment.py` runs the programs, watched as `wellfit doctor SCRIPT` watches any (`watched.py` is the process that does so).
`lesson.py` is what came of a pathology, in numbers and words; `slide.py` draws it, and `page.py` puts all of them on one page.
`verb.py` is `wellfit.lab`. Nothing here judges: what the doctor is said to have found, it found in these runs.

    >>> lesson = wellfit.lab("vanishing-gradients", folder="lab")
    >>> print(lesson)
"""
