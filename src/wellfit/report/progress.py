"""stand-in"""


class Progress:
    def __init__(self, file):
        self.file = file

    def __call__(self, event):
        n = type(event).__name__
        if n in ("Noted", "Evaluated", "Ended"):
            print(event, file=self.file)
