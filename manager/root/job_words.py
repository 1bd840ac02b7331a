"""The status word of every instance, ordered by job, so that a job's own word costs no look at all its instances. Pure.

A root wants the status of a whole job with every report of one of its instances; a job may have 100,000 of them.
"""

from __future__ import annotations

from collections import OrderedDict

from manager.domain.model import InstanceKey
from manager.root.words import job_word


class JobWords:
    """The words of instances as they were last heard of; the newest of each word is at the end."""

    def __init__(self) -> None:
        self._words: dict[InstanceKey, str] = {}
        self._of_job: dict[str, dict[str, OrderedDict[InstanceKey, None]]] = {}

    def put(self, key: InstanceKey, word: str) -> None:
        """An instance changed, and this is its word now."""
        self.drop(key)
        self._words[key] = word
        self._of_job.setdefault(key.job_id, {}).setdefault(word, OrderedDict())[key] = None

    def correct(self, key: InstanceKey, word: str) -> None:
        """An instance is about to be reported with this word, whether or not its change was heard of yet."""
        if self._words.get(key) != word:
            self.put(key, word)

    def drop(self, key: InstanceKey) -> None:
        """An instance is gone, or none of the root's."""
        word = self._words.pop(key, None)
        if word is None:
            return
        of_job = self._of_job[key.job_id]
        del of_job[word][key]
        if not of_job[word]:
            del of_job[word]
        if not of_job:
            del self._of_job[key.job_id]

    def clear(self) -> None:
        """The words of another era are wanted."""
        self._words.clear()
        self._of_job.clear()

    def of_job(self, job_id: str) -> str:
        """The job's word."""
        return job_word(self._of_job.get(job_id, ()))

    def newest(self, job_id: str) -> InstanceKey | None:
        """The instance that changed last of those which give the job its word."""
        keys = self._of_job.get(job_id, {}).get(self.of_job(job_id))
        return next(reversed(keys)) if keys else None
