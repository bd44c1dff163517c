"""What each run's recipe promises, asked of a worker whenever the recipe or the run's attributes have changed."""

from dataclasses import dataclass, field
from pathlib import Path

from sounding.contract import Run
from sounding.keeping.ledger import RunName
from sounding.records import Checkpoint, RecipeSheet
from sounding.running.crew import Survey

_DEATH_HOLDS = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class _Question:
    recipe: str
    written: tuple[int, int]  # modification time and size of the recipe; zeros when it is missing
    attributes: str


@dataclass
class Surveys:
    """Answers by run, each with the question it belongs to; a changed question has no answer yet."""

    _answers: dict[RunName, tuple[_Question, RecipeSheet]] = field(default_factory=dict)
    _asked: dict[RunName, tuple[Survey, _Question]] = field(default_factory=dict)  # the newest question
    _expiry: dict[RunName, float] = field(default_factory=dict)  # when to ask again after a worker died over it

    def answer(self, recipe: Path, run: Run) -> RecipeSheet | None:
        """What the recipe promises for the run; None when it must be asked (again)."""
        known = self._answers.get((run.store, run.name))
        return known[1] if known is not None and known[0] == _question(recipe, run) else None

    def ask(self, recipe: Path, run: Run, checkpoint: Checkpoint) -> Survey | None:
        """The survey to make; None while it is under way."""
        question, name = _question(recipe, run), (run.store, run.name)
        under_way = self._asked.get(name)
        if under_way is not None and under_way[1] == question:
            return None
        survey = Survey(str(recipe), run, checkpoint)
        self._asked[name] = survey, question
        return survey

    def take(self, survey: Survey, sheet: RecipeSheet, died_at: float | None = None) -> RunName:
        """Take in an answer, unless something else has been asked since; the run it is about.

        With `died_at`, the answer is that a worker died: it may have been the machine's fault and holds for a while.
        """
        name = (survey.run.store, survey.run.name)
        asked, question = self._asked.get(name, (None, None))
        if asked is survey and question is not None:
            self._answers[name] = (question, sheet)
            del self._asked[name]
            if died_at is not None:
                self._expiry[name] = died_at + _DEATH_HOLDS
        return name

    def expired(self, now: float) -> set[RunName]:
        """Forget the deaths that are long enough ago; the runs to be asked of again."""
        names = {name for name, expiry in self._expiry.items() if now >= expiry}
        for name in names:
            del self._expiry[name]
            self.doubt(name)
        return names

    def problems(self) -> tuple[str, ...]:
        """Which runs' recipes cannot be used, and why."""
        return tuple(
            f"{store}/{run}: {sheet.error}" for (store, run), (_, sheet) in self._answers.items() if sheet.error
        )

    def doubt(self, name: RunName) -> None:
        """Forget an answer that a job found to be no longer true."""
        self._answers.pop(name, None)


def _question(recipe: Path, run: Run) -> _Question:
    try:
        status = recipe.stat()
        written = (status.st_mtime_ns, status.st_size)
    except OSError:
        written = (0, 0)
    return _Question(str(recipe), written, repr(sorted(run.attributes.items())))
