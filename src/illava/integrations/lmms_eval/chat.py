"""The model of lmms-eval that takes conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval.api.instance import Instance

from ..answering import Chat
from .base import Illava, Source


class IllavaChat(Illava):
    """Answers the conversations that tasks make, with pictures and videos where the task puts them."""

    is_simple = False

    def _question(self, request: Instance) -> tuple[Source, Mapping[str, Any]]:
        _, messages_of, given, number, task, split = request.args

        def chat() -> Chat:
            return self._chat(messages_of(self.task_dict[task][split][number]), task, number)

        return chat, given
