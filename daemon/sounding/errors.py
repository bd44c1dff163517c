"""What a person can mend. It stands by itself: whoever only asks for results need not load the nouns for it."""


class SoundingError(Exception):
    """A mistake that a person can mend; the message says what, where, what was expected and what to do next.

    Entry points print the message alone, without a traceback.
    """
